//! Load of the measurements: candles and ticks from a seed, the same on every machine and day except for their times,
//! which end now.

use std::time::{Duration, SystemTime};

use acceptance::producer::PARTITIONS;
use acceptance::redis_server::RedisServer;
use anyhow::Context;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use storage_core::domain::candle::Candle;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::entry::Fields;
use storage_core::domain::partition::partition_of;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::{Side, Tick};
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec;
use storage_core::redis::stream::Stream;

/// Number of symbols of every load.
pub(super) const SYMBOLS: usize = 500;
/// Event time of all ticks.
const TICKS_SPAN: Duration = Duration::from_secs(600);
/// Time from a trade to its entry in Redis.
const LATENCY_MS: i64 = 5;
/// Decimals of volumes.
const DECIMALS: u8 = 8;
/// `XADD`s in a pipeline.
const PIPELINE: usize = 1_000;

/// Random walk of a symbol's price, in cents.
struct Walk {
    symbol: Symbol,
    cents: i64,
}

impl Walk {
    fn all(random: &mut impl RngExt) -> anyhow::Result<Vec<Self>> {
        (0..SYMBOLS)
            .map(|number| {
                Ok(Self {
                    symbol: format!("SYM{number:03}USDT").parse()?,
                    cents: random.random_range(1_000..1_000_000),
                })
            })
            .collect()
    }

    fn step(&mut self, random: &mut impl RngExt) -> f64 {
        self.cents = (self.cents + random.random_range(-9..=9)).max(1);
        self.price()
    }

    fn price(&self) -> f64 {
        self.cents as f64 / 100.0
    }
}

/// A candle of a symbol, and its volume in lots.
pub(super) struct SymbolCandle {
    pub(super) symbol: Symbol,
    pub(super) candle: Candle,
    pub(super) lots: i64,
}

/// Returns the candles of `minutes` minutes that end now, by partition, in the order in which hot-writer closes them.
pub(super) fn candles(seed: u64, minutes: usize) -> anyhow::Result<Vec<Vec<SymbolCandle>>> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut walks = Walk::all(&mut random)?;
    let mut partitions: Vec<Vec<SymbolCandle>> = (0..PARTITIONS).map(|_| Vec::new()).collect();
    let minute_us = Timeframe::M1.micros();
    let first_us = Timeframe::M1.bucket_start_us(now_us()?) - i64::try_from(minutes)? * minute_us;
    for minute in 0..i64::try_from(minutes)? {
        let start_us = first_us + minute * minute_us;
        for (seq, walk) in (0..).zip(&mut walks) {
            let prices = [0; 4].map(|_| walk.step(&mut random));
            let trades = random.random_range(4..400);
            let lots = trades * random.random_range(1_000_000..100_000_000);
            let offsets = [
                random.random_range(0..5_000_000),
                random.random_range(55_000_000..60_000_000),
            ];
            let [first_us, last_us] = offsets.map(|offset| start_us + offset);
            let candle = Candle {
                start_us,
                open: prices[0],
                high: prices.into_iter().fold(prices[0], f64::max),
                low: prices.into_iter().fold(prices[0], f64::min),
                close: prices[3],
                volume: Decimal::from_lots(lots.into(), DECIMALS),
                trades,
                first_us,
                last_us,
                since: revision(first_us, seq)?,
                revision: revision(last_us, seq)?,
            };
            partitions[usize::from(partition_of(&walk.symbol, PARTITIONS))].push(SymbolCandle {
                symbol: walk.symbol.clone(),
                candle,
                lots,
            });
        }
    }
    Ok(partitions)
}

/// A tick, its quantity in lots, and the ID of its entry.
pub(super) struct TickEntry {
    pub(super) tick: Tick,
    pub(super) lots: i64,
    pub(super) id: StreamId,
    /// Number that is the `trade_id`.
    pub(super) number: i64,
}

/// Returns `count` ticks of the last ten minutes by partition; all symbols are traded equally often.
pub(super) fn ticks(seed: u64, count: usize) -> anyhow::Result<Vec<Vec<TickEntry>>> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut walks = Walk::all(&mut random)?;
    let mut numbers = [1_000_000_i64; SYMBOLS];
    let mut partitions: Vec<Vec<TickEntry>> = (0..PARTITIONS).map(|_| Vec::new()).collect();
    let span_us = i64::try_from(TICKS_SPAN.as_micros())?;
    let first_us = now_us()? - span_us - 1_000 * LATENCY_MS;
    let count = i64::try_from(count)?;
    for at in 0..count {
        let symbol = random.random_range(0..SYMBOLS);
        let (walk, ts_us) = (&mut walks[symbol], first_us + at * span_us / count);
        let lots = random.random_range(1_000_000..10_000_000_000);
        numbers[symbol] += 1;
        let tick = Tick {
            symbol: walk.symbol.clone(),
            ts_us,
            price: walk.step(&mut random),
            qty: Decimal::from_lots(lots.into(), DECIMALS),
            trade_id: Some(numbers[symbol].to_string().into()),
            side: Some(if random.random() { Side::Buy } else { Side::Sell }),
        };
        partitions[usize::from(partition_of(&walk.symbol, PARTITIONS))].push(TickEntry {
            tick,
            lots,
            id: entry_id(ts_us, u64::try_from(at)?)?,
            number: numbers[symbol],
        });
    }
    Ok(partitions)
}

/// Returns the entry ID of the `number`th trade.
fn entry_id(ts_us: i64, number: u64) -> anyhow::Result<StreamId> {
    let ms = u64::try_from(ts_us / 1_000 + LATENCY_MS)?;
    Ok(StreamId { ms, seq: number })
}

fn revision(ts_us: i64, seq: u64) -> anyhow::Result<Revision> {
    Revision::try_from(entry_id(ts_us, seq)?).context("the entry ID does not fit a revision")
}

/// Adds candles to their streams, as hot-writer does.
pub(super) async fn add_candles(redis: &RedisServer, partitions: &[Vec<SymbolCandle>]) -> anyhow::Result<()> {
    for (partition, candles) in (0..).zip(partitions) {
        let entries = candles
            .iter()
            .map(|of| ("*".to_owned(), codec::candles::entry_fields(&of.symbol, &of.candle)));
        add(redis, Stream::Candles(partition), entries).await?;
    }
    Ok(())
}

/// Adds ticks to their streams, as feed handlers do.
pub(super) async fn add_ticks(redis: &RedisServer, partitions: &[Vec<TickEntry>]) -> anyhow::Result<()> {
    for (partition, ticks) in (0..).zip(partitions) {
        let entries = ticks
            .iter()
            .map(|of| (of.id.to_string(), codec::ticks::entry_fields(&of.tick)));
        add(redis, Stream::Ticks(partition), entries).await?;
    }
    Ok(())
}

async fn add(
    redis: &RedisServer,
    stream: Stream,
    entries: impl Iterator<Item = (String, Fields)>,
) -> anyhow::Result<()> {
    let mut connection = redis.connect();
    let mut entries = entries.peekable();
    while entries.peek().is_some() {
        let mut pipeline = redis::pipe();
        for (id, fields) in entries.by_ref().take(PIPELINE) {
            pipeline.cmd("XADD").arg(stream.key()).arg(id);
            for (name, value) in &fields {
                pipeline.arg(*name).arg(value);
            }
            pipeline.ignore();
        }
        pipeline.exec_async(&mut connection).await?;
    }
    Ok(())
}

fn now_us() -> anyhow::Result<i64> {
    Ok(i64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_micros())?)
}
