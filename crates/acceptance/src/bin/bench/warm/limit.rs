//! Limit of the database on one connection: the same rows, ready in memory, written by prepared statements or COPY.

use std::time::{Duration, Instant, SystemTime};

use anyhow::ensure;
use storage_core::domain::stream_id::Revision;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};

use super::load::{SymbolCandle, TickEntry};
use super::stores::{Session, rate};

/// A copy of warm-syncer's upsert, so that the baseline stays the same when warm-syncer changes.
const UPSERT: &str = "
INSERT INTO candles_1m (time, symbol, open, high, low, close, volume, trades, revision)
SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::float8[], $4::float8[], $5::float8[], $6::float8[],
                     $7::bigint[], $8::integer[], $9::bigint[])
    AS new (time, symbol, open, high, low, close, volume, trades, revision)
ORDER BY symbol, time
ON CONFLICT (symbol, time) DO UPDATE SET
    open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
    volume = excluded.volume, trades = excluded.trades, revision = excluded.revision
WHERE candles_1m.revision < excluded.revision";

/// Batch sizes that are tried; the fastest counts.
const SIZES: [usize; 3] = [1_000, 5_000, 10_000];

/// Columns of a batch of candles.
struct Columns<'a> {
    time: Vec<SystemTime>,
    symbol: Vec<&'a str>,
    prices: [Vec<f64>; 4],
    lots: Vec<i64>,
    trades: Vec<i32>,
    revision: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(candles: &'a [SymbolCandle]) -> anyhow::Result<Self> {
        let prices = |price: fn(&SymbolCandle) -> f64| candles.iter().map(price).collect();
        let trades = candles.iter().map(|of| i32::try_from(of.candle.trades));
        Ok(Self {
            time: candles
                .iter()
                .map(|of| time(of.candle.start_us))
                .collect::<Result<_, _>>()?,
            symbol: candles.iter().map(|of| of.symbol.as_str()).collect(),
            prices: [
                prices(|of| of.candle.open),
                prices(|of| of.candle.high),
                prices(|of| of.candle.low),
                prices(|of| of.candle.close),
            ],
            lots: candles.iter().map(|of| of.lots).collect(),
            trades: trades.collect::<Result<_, _>>()?,
            revision: candles.iter().map(|of| of.candle.revision.as_i64()).collect(),
        })
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 9] {
        let [open, high, low, close] = &self.prices;
        [
            &self.time,
            &self.symbol,
            open,
            high,
            low,
            close,
            &self.lots,
            &self.trades,
            &self.revision,
        ]
    }
}

/// Returns the candles per second of `INSERT … SELECT FROM unnest` into the empty table, with a batch of each stream in
/// turn; the best of several batch sizes.
pub(super) async fn insert_candles(session: &Session, partitions: &[Vec<SymbolCandle>]) -> anyhow::Result<f64> {
    let mut best = 0.0_f64;
    for size in SIZES {
        best = best.max(insert_in_batches(session, partitions, size).await?);
    }
    Ok(best)
}

async fn insert_in_batches(session: &Session, partitions: &[Vec<SymbolCandle>], size: usize) -> anyhow::Result<f64> {
    let mut streams: Vec<_> = partitions.iter().map(|candles| candles.chunks(size)).collect();
    let longest = partitions.iter().map(Vec::len).max().unwrap_or_default();
    let mut batches = Vec::new();
    for _ in 0..longest.div_ceil(size) {
        for batch in streams.iter_mut().filter_map(Iterator::next) {
            batches.push(Columns::of(batch)?);
        }
    }
    let statement = session.client.prepare(UPSERT).await?;
    session.empty("candles_1m").await?;
    let begun = Instant::now();
    for batch in &batches {
        session.client.execute(&statement, &batch.parameters()).await?;
    }
    Ok(rate(partitions.iter().map(Vec::len).sum(), begun.elapsed()))
}

/// Returns the ticks per second of one `COPY … BINARY` into the empty table, one stream after the other.
pub(super) async fn copy_ticks(session: &Session, partitions: &[Vec<TickEntry>]) -> anyhow::Result<f64> {
    const TYPES: [Type; 8] = [
        Type::TIMESTAMPTZ,
        Type::TEXT,
        Type::FLOAT8,
        Type::INT8,
        Type::TEXT,
        Type::INT8,
        Type::TEXT,
        Type::INT8,
    ];
    let mut rows = Vec::new();
    for of in partitions.iter().flatten() {
        let revision = Revision::try_from(of.id)?.as_i64();
        rows.push((
            time(of.tick.ts_us)?,
            of,
            of.tick.side.map(|side| side.as_str()),
            revision,
        ));
    }
    session.empty("ticks").await?;
    let begun = Instant::now();
    let sink = session
        .client
        .copy_in("COPY ticks (time, symbol, price, lots, side, trade_no, trade_key, revision) FROM STDIN BINARY")
        .await?;
    let mut writer = std::pin::pin!(BinaryCopyInWriter::new(sink, &TYPES));
    for (time, of, side, revision) in &rows {
        let symbol = of.tick.symbol.as_str();
        writer
            .as_mut()
            .write(&[time, &symbol, &of.tick.price, &of.lots, side, &of.number, &"", revision])
            .await?;
    }
    let copied = writer.finish().await?;
    let took = begun.elapsed();
    ensure!(
        copied == u64::try_from(rows.len())?,
        "{copied} rows were copied, expected {}",
        rows.len()
    );
    Ok(rate(rows.len(), took))
}

fn time(ts_us: i64) -> Result<SystemTime, std::num::TryFromIntError> {
    Ok(SystemTime::UNIX_EPOCH + Duration::from_micros(ts_us.try_into()?))
}
