//! Size of a candle and of a tick on disk, before and after compression.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use storage_core::domain::candle::Candle;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::tick::{AcceptedTick, Side, Tick};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::queries::candles::{self, CandleRow};
use storage_core::postgres::queries::ticks::{self, TickRow};
use storage_core::testing::process::project;

use super::stores::{Session, Stores};
use crate::bench::Bench;
use crate::figure::{Figure, Target};

/// Environment variable with a folder of more real trades, and the name of their file.
const FOLDER: &str = "MARKET_DATA_DIR";
const MORE_TRADES: &str = "xrpeth_agg_trades.csv";
const SEED_TRADES: &str = "seed/xrpeth-aggTrades-2019-10-11.csv";

/// Rows in a statement.
const BATCH: usize = 5_000;
/// Offset between the trades of one symbol and those of the next.
const SHIFT_US: i64 = 7 * 60_000_000;
/// Decimals of the quantities of these trades, which are whole units.
const EXACT_DECIMALS: u8 = 0;

/// Measures sizes on the embedded Community edition.
pub(crate) async fn bytes(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let symbols = bench.sized(100, 20);
    let trades = trades()?;
    let stores = Stores::start(bench, Edition::Community).await?;
    let figure = |name, description, target| Figure::new(name, description, "bytes", "before compression", target);
    let mut candle = figure(
        "compressed candle",
        "bytes of a 1-minute candle in a compressed chunk, including the index; the ratio says how many times \
         smaller it is. The candles are those of real trades of XRPETH, from MARKET_DATA_DIR or else from the seed. A \
         chunk of one symbol would be dominated by the fixed cost of a chunk, so the same trades are used for many \
         symbols, each some minutes later than the one before. Trades reach Redis within up to 40 ms, which shows in \
         their revisions.",
        Target::OursAtMost(35.0),
    );
    let mut larger = figure(
        "compressed 5-minute candle",
        "bytes of a 5-minute candle of these trades, measured like the 1-minute candles.",
        Target::None,
    );
    let mut tick = figure(
        "compressed tick",
        "bytes of one of these trades in `ticks`, measured like the candles.",
        Target::OursAtMost(16.0),
    );
    let mut exact_candle = figure(
        "compressed candle, exact lots",
        "the same with lots of one unit, the exchange's step, in place of 8 decimals.",
        Target::None,
    );
    let mut exact_tick = figure("compressed tick, exact lots", "the same for a tick.", Target::None);

    let rows = fill(&stores, &trades, symbols, DEFAULT_VOLUME_DECIMALS).await?;
    stores.admin(&["refresh", "--all"]).await?;
    let session = stores.session().await?;
    compress(&session, "candles_1m", rows.candles, &mut candle).await?;
    let count = session.number("SELECT count(*) FROM candles_5m").await?;
    compress(&session, "candles_5m", count.try_into()?, &mut larger).await?;
    compress(&session, "ticks", rows.ticks, &mut tick).await?;
    session.empty("candles_1m, ticks").await?;
    session.close().await;

    let rows = fill(&stores, &trades, symbols, EXACT_DECIMALS).await?;
    let session = stores.session().await?;
    compress(&session, "candles_1m", rows.candles, &mut exact_candle).await?;
    compress(&session, "ticks", rows.ticks, &mut exact_tick).await?;
    session.close().await;
    Ok(vec![candle, larger, tick, exact_candle, exact_tick])
}

/// Numbers of rows written.
struct Rows {
    candles: usize,
    ticks: usize,
}

/// Writes the trades and their candles for each of `symbols` symbols.
async fn fill(stores: &Stores<'_>, trades: &[Trade], symbols: u32, decimals: u8) -> anyhow::Result<Rows> {
    let mut connection = stores.database.connect().await;
    let mut written = Rows { candles: 0, ticks: 0 };
    for number in 0..symbols {
        let accepted = of_symbol(trades, number)?;
        for batch in accepted.chunks(BATCH) {
            let rows = batch
                .iter()
                .map(|tick| TickRow::new(tick, lots(tick.tick.qty, decimals)?).map_err(Into::into));
            written.ticks += ticks::insert(&mut connection, &rows.collect::<anyhow::Result<Vec<_>>>()?).await?;
        }
        for batch in candle_rows(&accepted, decimals)?.chunks(BATCH) {
            written.candles += candles::upsert_1m(&mut connection, batch).await?;
        }
    }
    Ok(written)
}

/// Compresses all chunks of a table, and adds the bytes per row before and after to `figure`.
async fn compress(session: &Session, table: &str, rows: usize, figure: &mut Figure) -> anyhow::Result<()> {
    let size = format!("SELECT hypertable_size('{table}')");
    let before = session.number(&size).await? as f64;
    session
        .client
        .batch_execute(&format!(
            "SELECT compress_chunk(chunk) FROM show_chunks('{table}') chunk"
        ))
        .await?;
    let after = session.number(&size).await? as f64;
    figure.push_inverse(after / rows as f64, before / rows as f64);
    let chunks = session
        .number(&format!("SELECT count(*) FROM show_chunks('{table}')"))
        .await?;
    figure.note = Some(format!("{rows} rows in {chunks} chunks"));
    Ok(())
}

/// A trade of the file.
struct Trade {
    number: i64,
    price: f64,
    qty: Decimal,
    ts_us: i64,
    side: Side,
}

fn trades() -> anyhow::Result<Vec<Trade>> {
    let more = std::env::var_os(FOLDER).map(|folder| PathBuf::from(folder).join(MORE_TRADES));
    let file = more.unwrap_or_else(|| project().join(SEED_TRADES));
    let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let trade = |line: &str| {
        let columns: Vec<&str> = line.split(',').collect();
        let [number, price, qty, _, _, ms, maker] = columns[..] else {
            anyhow::bail!("`{line}` is not an aggregate trade");
        };
        Ok(Trade {
            number: number.parse()?,
            price: price.parse()?,
            qty: qty.parse()?,
            ts_us: ms.parse::<i64>()? * 1_000,
            side: if maker.trim() == "true" { Side::Sell } else { Side::Buy },
        })
    };
    text.lines().skip(1).map(trade).collect()
}

/// Returns the trades as those of the `number`th symbol.
fn of_symbol(trades: &[Trade], number: u32) -> anyhow::Result<Vec<AcceptedTick>> {
    let symbol: storage_core::domain::symbol::Symbol = format!("XRPETH{number:02}").parse()?;
    let (mut newest, mut accepted) = (StreamId::START, Vec::with_capacity(trades.len()));
    for trade in trades {
        let ts_us = trade.ts_us + i64::from(number) * SHIFT_US;
        let latency_ms = 1 + trade.number * 7_919 % 40;
        let id = StreamId::at_ms(u64::try_from(ts_us / 1_000 + latency_ms)?);
        newest = id.max(newest.next());
        accepted.push(AcceptedTick {
            tick: Tick {
                symbol: symbol.clone(),
                ts_us,
                price: trade.price,
                qty: trade.qty,
                trade_id: Some(trade.number.to_string().into()),
                side: Some(trade.side),
            },
            revision: Revision::try_from(newest)?,
            origin: newest,
        });
    }
    Ok(accepted)
}

/// Returns the candles of one symbol's ticks.
fn candle_rows(ticks: &[AcceptedTick], decimals: u8) -> anyhow::Result<Vec<CandleRow>> {
    let mut candles: Vec<Candle> = Vec::new();
    for AcceptedTick { tick, revision, .. } in ticks {
        let start_us = Timeframe::M1.bucket_start_us(tick.ts_us);
        match candles.last_mut().filter(|last| last.start_us == start_us) {
            Some(last) => {
                let volume = last.volume.checked_add(tick.qty).context("the volume overflows")?;
                last.fold(tick.ts_us, tick.price, volume, *revision);
            }
            None => candles.push(Candle::of_tick(
                Timeframe::M1,
                tick.ts_us,
                tick.price,
                tick.qty,
                *revision,
            )),
        }
    }
    let row = |candle: Candle| {
        Ok(CandleRow {
            start_us: candle.start_us,
            symbol: ticks[0].tick.symbol.clone(),
            open: candle.open,
            high: candle.high,
            low: candle.low,
            close: candle.close,
            volume_lots: lots(candle.volume, decimals)?,
            trades: candle.trades.try_into()?,
            revision: candle.revision,
        })
    };
    candles.into_iter().map(row).collect()
}

fn lots(quantity: Decimal, decimals: u8) -> anyhow::Result<i64> {
    let (lots, _) = quantity.to_lots(decimals).context("the quantity does not fit lots")?;
    Ok(lots.try_into()?)
}
