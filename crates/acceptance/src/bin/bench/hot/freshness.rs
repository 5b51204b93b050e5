//! Freshness of the hot view: the age of what a subscriber receives while a live feed runs.

use std::time::Duration;

use acceptance::producer::PARTITIONS;
use storage_core::testing::program::Worker;

use super::drain::BATCH_ENTRIES;
use super::live::{Live, live_redis, steadily, wait_until_blocked};
use super::observed::{Kind, Observed};
use super::relay::Relay;
use super::throughput::SYMBOLS;
use crate::bench::{Bench, all_serve};
use crate::figure::{Figure, Target};

const AGE: &str = "One producer sends ticks of 500 symbols (Zipf's law) to hot-writer with its default configuration, \
    at a steady rate and with the real time; one subscriber of `tick:*` and `candle:*` on its own connection records \
    every message. The age of a message is the time from sending the newest tick in it until it was received. Redis, \
    worker, producer and subscriber share the machine. The first two seconds are not counted. The peer has the same \
    producer and subscriber. The Python worker (`python/hot_worker.py`) waits for entries of all streams, and writes \
    and publishes every candle that they change in one pipeline.";
const DELAY: &str = "Time from sending a tick to the first message of its symbol that counts it. The age does not show \
    the messages that were never sent; this does.";
const SHARE: &str = "Share of the traded symbols of which every tick was in a published open 1-minute candle within a \
    second. A writer that leaves out quiet symbols to be fast on busy ones would lose here.";
const MESSAGES: &str = "Messages with an open 1-minute candle. Conflation may save some; this figure shows how many.";
const CPU: &str = "CPU time per tick while the figures above were measured.";
const TICK_TO_MESSAGE: &str = "Time from sending a tick to the first message on `tick:*` that has it or a later one of \
    its symbol: under load, updates are conflated. The peer is a bare client that XREADs all streams and PUBLISHes \
    every tick, and neither folds nor stores anything.";
const SCALE: &str = "The age of the open 1-minute candle at 5,000 ticks/s, as above, with another number of \
    partitions, replicas or symbols.";
const TURN: &str = "The feed of 5,000 ticks/s runs over the turn of a minute, when 500 candles begin and 500 are \
    closed. The age of open 1-minute candles received in the five seconds after it, compared with those received in \
    the five seconds before.";

const MS: &str = "ms";
const PYTHON: &str = "Python worker";
const BARE: &str = "bare XREAD, PUBLISH";
const LATEST_TICK: &str = "latest tick";

/// Limit of [`SHARE`].
const SECOND_US: u64 = 1_000_000;
/// Time before and after the turn of a minute that is measured.
const TURN_US: u64 = 5_000_000;

/// Value of a figure.
type Value = fn(&Observed) -> anyhow::Result<f64>;

/// A figure and its values.
struct Row {
    figure: Figure,
    ours: Value,
    theirs: Value,
}

impl Row {
    /// Creates a row with the same value of both sides.
    fn new(figure: Figure, value: Value) -> Self {
        Self {
            figure,
            ours: value,
            theirs: value,
        }
    }

    fn push(&mut self, ours: &Observed, theirs: &Observed) -> anyhow::Result<()> {
        self.figure.push((self.ours)(ours)?, (self.theirs)(theirs)?);
        Ok(())
    }
}

fn figures(rows: Vec<Row>) -> Vec<Figure> {
    rows.into_iter().map(|row| row.figure).collect()
}

const MINUTE_P50: Value = |seen| Ok(seen.ages(Kind::Minute)?.quantile(0.5));
const MINUTE_P99: Value = |seen| Ok(seen.ages(Kind::Minute)?.quantile(0.99));
const LARGER_P99: Value = |seen| Ok(seen.ages(Kind::Larger)?.quantile(0.99));
const TICK_P50: Value = |seen| Ok(seen.ages(Kind::Tick)?.quantile(0.5));
const TICK_P99: Value = |seen| Ok(seen.ages(Kind::Tick)?.quantile(0.99));
const MINUTE_DELAY_P99: Value = |seen| Ok(seen.delays(Kind::Minute)?.quantile(0.99));
const MINUTE_SHARE: Value = |seen| Ok(seen.share_within(Kind::Minute, SECOND_US)? * 100.0);
const MINUTE_MESSAGES: Value = |seen| Ok(seen.per_s(Kind::Minute));
const TICK_DELAY_P50: Value = |seen| Ok(seen.delays(Kind::Tick)?.quantile(0.5));
const TICK_DELAY_P99: Value = |seen| Ok(seen.delays(Kind::Tick)?.quantile(0.99));
const REDIS_CPU: Value = |seen| Ok(seen.redis_us);
const WORKER_CPU: Value = |seen| Ok(seen.worker_us);

fn live(bench: &Bench, ticks_per_s: u64) -> Live {
    Live {
        load: bench.load(0, SYMBOLS),
        partitions: PARTITIONS,
        ticks_per_s,
        length: Duration::from_secs(bench.sized(12, 4)),
        turn_after: None,
    }
}

/// Compares hot-writer with `python/hot_worker.py` at rates that Python can follow.
pub(crate) async fn python(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut all = Vec::new();
    for ticks_per_s in [2_000, 5_000] {
        let row = |name: &str, description, unit, target, value| {
            let name = format!("{name}, {} ticks/s", thousands(ticks_per_s));
            Row::new(Figure::new(name, description, unit, PYTHON, target), value)
        };
        let mut rows = vec![
            row("open 1m candle, age p50", AGE, MS, Target::AtMost(0.5), MINUTE_P50),
            row("open 1m candle, age p99", AGE, MS, Target::AtMost(1.0), MINUTE_P99),
            row(
                "open 1m candle, delay of a tick p99",
                DELAY,
                MS,
                Target::None,
                MINUTE_DELAY_P99,
            ),
            row(
                "open 1m candle, symbols within 1 s",
                SHARE,
                "%",
                Target::None,
                MINUTE_SHARE,
            ),
            row(
                "open 1m candle, messages",
                MESSAGES,
                "1/s",
                Target::None,
                MINUTE_MESSAGES,
            ),
            row("larger timeframes, age p99", AGE, MS, Target::None, LARGER_P99),
            row("latest tick, age p50", AGE, MS, Target::None, TICK_P50),
            row("latest tick, age p99", AGE, MS, Target::None, TICK_P99),
            row("CPU of Redis a tick", CPU, "µs", Target::None, REDIS_CPU),
            row("CPU of the worker a tick", CPU, "µs", Target::None, WORKER_CPU),
        ];
        for _ in 0..bench.rounds {
            let theirs = steadily(async || by_python(bench, live(bench, ticks_per_s)).await).await?;
            let ours = steadily(async || ours(bench, live(bench, ticks_per_s), 1).await).await?;
            rows.iter_mut().try_for_each(|row| row.push(&ours, &theirs))?;
        }
        all.extend(figures(rows));
    }
    Ok(all)
}

/// Compares hot-writer at 20,000 ticks/s with its own latest ticks, and with a bare client.
pub(crate) async fn busy(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let row = |name: &str, description, unit, compared_with, target, ours, theirs| Row {
        figure: Figure::new(
            format!("{name}, 20,000 ticks/s"),
            description,
            unit,
            compared_with,
            target,
        ),
        ours,
        theirs,
    };
    let second: Value = |_| Ok(1_000.0);
    let most = Target::AtMost;
    let mut against_itself = vec![
        row(
            "open 1m candle, age p50",
            AGE,
            MS,
            LATEST_TICK,
            most(15.0),
            MINUTE_P50,
            TICK_P50,
        ),
        row(
            "open 1m candle, age p99",
            AGE,
            MS,
            LATEST_TICK,
            most(15.0),
            MINUTE_P99,
            TICK_P99,
        ),
        row(
            "larger timeframes, age p99",
            AGE,
            MS,
            "1 s",
            most(1.0),
            LARGER_P99,
            second,
        ),
        row(
            "open 1m candle, delay of a tick p99",
            DELAY,
            MS,
            "1 s",
            Target::None,
            MINUTE_DELAY_P99,
            second,
        ),
        row(
            "open 1m candle, symbols within 1 s",
            SHARE,
            "%",
            "all",
            Target::None,
            MINUTE_SHARE,
            |_| Ok(100.0),
        ),
        row(
            "open 1m candle, messages",
            MESSAGES,
            "1/s",
            LATEST_TICK,
            Target::None,
            MINUTE_MESSAGES,
            |seen| Ok(seen.per_s(Kind::Tick)),
        ),
    ];
    let bare = |name, description, unit, target, value| row(name, description, unit, BARE, target, value, value);
    let mut against_bare = vec![
        bare("tick to message, p50", TICK_TO_MESSAGE, MS, most(2.0), TICK_DELAY_P50),
        bare("tick to message, p99", TICK_TO_MESSAGE, MS, most(4.0), TICK_DELAY_P99),
        bare("CPU of Redis a tick", CPU, "µs", most(1.6), REDIS_CPU),
    ];
    let mut cpu = Figure::new("CPU of the worker a tick, 20,000 ticks/s", CPU, "µs", "-", Target::None);
    for _ in 0..bench.rounds {
        let theirs = steadily(async || by_bare_client(bench, live(bench, 20_000)).await).await?;
        let ours = steadily(async || ours(bench, live(bench, 20_000), 1).await).await?;
        against_itself.iter_mut().try_for_each(|row| row.push(&ours, &ours))?;
        against_bare.iter_mut().try_for_each(|row| row.push(&ours, &theirs))?;
        cpu.ours.0.push(ours.worker_us);
    }
    against_itself.extend(against_bare);
    let mut all = figures(against_itself);
    all.push(cpu);
    Ok(all)
}

/// Compares hot-writer with itself at other numbers of partitions, replicas and symbols.
pub(crate) async fn scale(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let base = live(bench, 5_000);
    let with_partitions = |partitions| Live { partitions, ..base };
    let many = Live {
        load: bench.load(0, 10_000),
        ..base
    };
    let mut variants = vec![
        ("1 partition", with_partitions(1), 1, 1.5),
        ("16 partitions", with_partitions(16), 1, 1.5),
        ("64 partitions", with_partitions(64), 1, 1.5),
        ("3 replicas", base, 3, 1.5),
        ("10,000 symbols", many, 1, 4.0),
    ];
    if bench.quick {
        variants.retain(|(name, ..)| ["64 partitions", "10,000 symbols"].contains(name));
    }
    let rows = |(name, live, replicas, most)| {
        let row = |quantile, value| {
            let name = format!("open 1m candle, age {quantile}, {name}");
            let compared_with = "itself, 4 partitions, 500 symbols";
            Row::new(Figure::new(name, SCALE, MS, compared_with, Target::AtMost(most)), value)
        };
        (live, replicas, [row("p50", MINUTE_P50), row("p99", MINUTE_P99)])
    };
    let mut variants: Vec<(Live, u16, [Row; 2])> = variants.into_iter().map(rows).collect();
    for _ in 0..bench.rounds {
        let theirs = steadily(async || ours(bench, base, 1).await).await?;
        for (live, replicas, rows) in &mut variants {
            let ours = steadily(async || ours(bench, *live, *replicas).await).await?;
            rows.iter_mut().try_for_each(|row| row.push(&ours, &theirs))?;
        }
    }
    Ok(variants
        .into_iter()
        .flat_map(|(_, _, rows)| figures(rows.into()))
        .collect())
}

/// Compares the age of open candles after the turn of a minute with that before.
pub(crate) async fn turn(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let lead = Duration::from_micros(TURN_US);
    let live = Live {
        length: lead * 2,
        turn_after: Some(lead),
        ..live(bench, 5_000)
    };
    let before: Value = |seen| {
        let ages = seen.ages_between(Kind::Minute, seen.from_us, seen.from_us + TURN_US)?;
        Ok(ages.quantile(0.99))
    };
    let after: Value = |seen| {
        let ages = seen.ages_between(Kind::Minute, seen.from_us + TURN_US, seen.to_us)?;
        Ok(ages.quantile(0.99))
    };
    let name = "open 1m candle, age p99, turn of a minute";
    let mut row = Row {
        figure: Figure::new(name, TURN, MS, "itself, before", Target::None),
        ours: after,
        theirs: before,
    };
    for _ in 0..bench.rounds {
        let seen = steadily(async || ours(bench, live, 1).await).await?;
        row.push(&seen, &seen)?;
    }
    Ok(vec![row.figure])
}

/// Observes the feed with hot-writer.
async fn ours(bench: &Bench, live: Live, replicas: u16) -> anyhow::Result<Observed> {
    let redis = live_redis(bench, live.partitions).await?;
    let partitions = live.partitions.to_string();
    let environment = [("REDIS_URL", redis.url()), ("STORAGE_STREAM__PARTITIONS", &partitions)];
    let mut workers: Vec<Worker> = (0..replicas)
        .map(|_| bench.worker("hot-writer", &environment))
        .collect();
    all_serve(&mut workers, live.partitions).await?;
    let processes: Vec<u32> = workers.iter().map(Worker::id).collect();
    live.observe(&redis, &processes).await
}

/// Observes the feed with the Python worker.
async fn by_python(bench: &Bench, live: Live) -> anyhow::Result<Observed> {
    let redis = live_redis(bench, live.partitions).await?;
    let arguments = [
        redis.url().to_owned(),
        live.partitions.to_string(),
        BATCH_ENTRIES.to_string(),
    ];
    let worker = bench.python("hot_worker.py", &arguments.each_ref().map(String::as_str))?;
    wait_until_blocked(&redis).await?;
    live.observe(&redis, worker.id().as_slice()).await
}

/// Observes the feed with the bare client.
async fn by_bare_client(bench: &Bench, live: Live) -> anyhow::Result<Observed> {
    let redis = live_redis(bench, live.partitions).await?;
    let relay = Relay::start(redis.port()?, live.partitions);
    wait_until_blocked(&redis).await?;
    let seen = live.observe(&redis, &[]).await;
    relay.end().await?;
    seen
}

fn thousands(number: u64) -> String {
    format!("{},{:03}", number / 1_000, number % 1_000)
}
