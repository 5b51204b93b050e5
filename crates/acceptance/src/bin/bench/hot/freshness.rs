//! Freshness of the hot view: the age of what a subscriber receives while a live feed runs.

use std::time::Duration;

use acceptance::producer::PARTITIONS;
use storage_core::testing::program::Worker;

use super::drain::BATCH_ENTRIES;
use super::live::{Live, MINUTE_US, live_redis, steadily, wait_until_blocked};
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
    closed. The time from sending a tick to the first open 1-minute candle that counts it, for ticks of the five \
    seconds after it, compared with those of the five seconds before. It is not measured with `--quick`.";
const FINAL: &str =
    "Time from the end of the minute and of `hot.close_grace` (2 s) until the final candle was received.";

const MS: &str = "ms";
const PYTHON: &str = "Python worker";

/// Limit of [`SHARE`].
const SECOND_US: u64 = 1_000_000;
/// Time before and after the turn of a minute that is measured.
const AROUND_TURN: Duration = Duration::from_secs(5);
const AROUND_TURN_US: u64 = 5_000_000;
/// Default of `hot.close_grace`.
const CLOSE_GRACE_US: u64 = 2_000_000;

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
const LARGER_DELAY_P99: Value = |seen| Ok(seen.delays(Kind::Larger)?.quantile(0.99));
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
        warm_up: Duration::from_secs(bench.sized(2, 1)),
        length: Duration::from_secs(bench.sized(10, 3)),
        turn_after: None,
    }
}

/// Compares hot-writer with `python/hot_worker.py` at rates that Python can follow.
pub(crate) async fn python(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut all = Vec::new();
    for ticks_per_s in bench.sized(&[2_000, 5_000][..], &[5_000]) {
        let row = |name: &str, description, unit, target, value| {
            let name = format!("{name}, {},000 ticks/s", ticks_per_s / 1_000);
            Row::new(Figure::new(name, description, unit, PYTHON, target), value)
        };
        let (most, none) = (Target::AtMost, Target::None);
        let mut rows = vec![
            row("open 1m candle, age p50", AGE, MS, most(0.5), MINUTE_P50),
            row("open 1m candle, age p99", AGE, MS, most(1.0), MINUTE_P99),
            row("open 1m candle, delay p99", DELAY, MS, none, MINUTE_DELAY_P99),
            row("open 1m candle, symbols within 1 s", SHARE, "%", none, MINUTE_SHARE),
            row("open 1m candle, messages", MESSAGES, "1/s", none, MINUTE_MESSAGES),
            row("larger timeframes, age p99", AGE, MS, none, LARGER_P99),
            row("larger timeframes, delay p99", DELAY, MS, none, LARGER_DELAY_P99),
            row("latest tick, age p50", AGE, MS, none, TICK_P50),
            row("latest tick, age p99", AGE, MS, none, TICK_P99),
            row("CPU of Redis a tick", CPU, "µs", none, REDIS_CPU),
            row("CPU of the worker a tick", CPU, "µs", none, WORKER_CPU),
        ];
        for _ in 0..bench.rounds {
            let theirs = steadily(async || by_python(bench, live(bench, *ticks_per_s)).await).await?;
            let ours = steadily(async || ours(bench, live(bench, *ticks_per_s), 1).await).await?;
            rows.iter_mut().try_for_each(|row| row.push(&ours, &theirs))?;
        }
        all.extend(figures(rows));
    }
    Ok(all)
}

/// Compares hot-writer at 20,000 ticks/s with its own latest ticks, and with a bare client.
pub(crate) async fn busy(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let row = |name: &str, description, unit, compared_with, target, ours, theirs| {
        let name = format!("{name}, 20,000 ticks/s");
        let figure = Figure::new(name, description, unit, compared_with, target);
        Row { figure, ours, theirs }
    };
    let most = Target::AtMost;
    let tick = |name, target, ours, theirs| row(name, AGE, MS, "latest tick", target, ours, theirs);
    let second = |name, description, target, ours| row(name, description, MS, "1 s", target, ours, |_| Ok(1_000.0));
    let bare = |name, description, unit, target, value| {
        row(name, description, unit, "bare XREAD, PUBLISH", target, value, value)
    };
    let mut against_itself = vec![
        tick("open 1m candle, age p50", most(15.0), MINUTE_P50, TICK_P50),
        tick("open 1m candle, age p99", most(15.0), MINUTE_P99, TICK_P99),
        second("open 1m candle, delay p99", DELAY, Target::None, MINUTE_DELAY_P99),
        second("larger timeframes, age p99", AGE, most(1.0), LARGER_P99),
        second("larger timeframes, delay p99", DELAY, Target::None, LARGER_DELAY_P99),
    ];
    let mut against_bare = vec![
        bare("tick to message, p50", TICK_TO_MESSAGE, MS, most(2.0), TICK_DELAY_P50),
        bare("tick to message, p99", TICK_TO_MESSAGE, MS, most(4.0), TICK_DELAY_P99),
        bare("CPU of Redis a tick", CPU, "µs", most(1.6), REDIS_CPU),
    ];
    let alone = |name: &str, description, unit, value: Value| {
        let name = format!("{name}, 20,000 ticks/s");
        (Figure::new(name, description, unit, "-", Target::None), value)
    };
    let mut without_peer = [
        alone("open 1m candle, symbols within 1 s", SHARE, "%", MINUTE_SHARE),
        alone("open 1m candle, messages", MESSAGES, "1/s", MINUTE_MESSAGES),
        alone("CPU of the worker a tick", CPU, "µs", WORKER_CPU),
    ];
    for _ in 0..bench.rounds {
        let theirs = steadily(async || by_bare_client(bench, live(bench, 20_000)).await).await?;
        let ours = steadily(async || ours(bench, live(bench, 20_000), 1).await).await?;
        against_itself.iter_mut().try_for_each(|row| row.push(&ours, &ours))?;
        against_bare.iter_mut().try_for_each(|row| row.push(&ours, &theirs))?;
        for (figure, value) in &mut without_peer {
            figure.ours.0.push(value(&ours)?);
        }
    }
    let mut all = figures(against_itself);
    all.extend(figures(against_bare));
    all.extend(without_peer.into_iter().map(|(figure, _)| figure));
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
    let most_partitions = ("64 partitions", with_partitions(64), 1, 1.5);
    let variants = bench.sized(
        vec![
            ("1 partition", with_partitions(1), 1, 1.5),
            ("16 partitions", with_partitions(16), 1, 1.5),
            most_partitions,
            ("3 replicas", base, 3, 1.5),
            ("10,000 symbols", many, 1, 4.0),
        ],
        vec![most_partitions],
    );
    let rows = |(name, live, replicas, most)| {
        let row = |quantile, value| {
            let name = format!("open 1m candle, age {quantile}, {name}");
            let compared_with = "itself, 4 partitions";
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
        .flat_map(|(.., rows)| figures(rows.into()))
        .collect())
}

/// Compares the age of open candles after the turn of a minute with that before, and measures the final candles.
pub(crate) async fn turn(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    if bench.quick {
        return Ok(Vec::new());
    }
    let figure = |name: &str, description, compared_with| {
        let name = format!("{name}, turn of a minute");
        Figure::new(name, description, MS, compared_with, Target::None)
    };
    let mut open = figure("open 1m candle, delay p99", TURN, "itself, before");
    let mut closed = figure("final 1m candle, p99", FINAL, "1 s");
    let live = Live {
        length: AROUND_TURN * 2,
        turn_after: Some(AROUND_TURN),
        ..live(bench, 5_000)
    };
    for _ in 0..bench.rounds {
        let seen = steadily(async || ours(bench, live, 1).await).await?;
        let turn_us = seen.to_us / MINUTE_US * MINUTE_US;
        let before = seen.delays_between(Kind::Minute, turn_us - AROUND_TURN_US, turn_us)?;
        let after = seen.delays_between(Kind::Minute, turn_us, turn_us + AROUND_TURN_US)?;
        open.push(after.quantile(0.99), before.quantile(0.99));
        let finals = seen.finals(Kind::Minute, turn_us + CLOSE_GRACE_US)?;
        closed.push(finals.quantile(0.99), 1_000.0);
    }
    Ok(vec![open, closed])
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
