//! Take-over of partitions with many symbols.

use std::time::Duration;

use acceptance::producer::PARTITIONS;
use acceptance::redis_server::RedisServer;
use anyhow::ensure;
use storage_core::redis::keys;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{HOT_WRITER, Stream};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::client::Client;
use super::live::{Live, live_redis, now_us, steadily, wait_for_minute_with};
use super::load::{Feed, Tick, stream, symbols};
use super::observed::{Kind, Observed};
use super::throughput::SYMBOLS;
use crate::bench::{Bench, serves};
use crate::figure::{Figure, Target};

const DESCRIPTION: &str = "Every one of 100,000 symbols has open candles, and 500 of them are traded at 2,000 ticks/s \
    (10,000 symbols with `--quick`). hot-writer is killed, and another one starts, which acquires the partitions when \
    their leases expire. The longest time that a tick waited for its message, from the acquisition of its partition, \
    or from its sending if it was sent later.";
const FROM_KILL: &str = "The same take-over: the longest time from sending a tick to its message. It includes the \
    time until the leases expire (`hot.lease_ttl`, 5 s).";

const TICKS_PER_S: u64 = 2_000;
/// Time from the begin of the feed to the kill.
const KILL_AFTER: Duration = Duration::from_secs(3);
/// Ticks in a pipeline.
const PIPELINE: usize = 1_000;
const POLL: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures how long the busy symbols wait for the new owner.
pub(crate) async fn takeover(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let count = bench.sized("100,000", "10,000");
    let figure = |name: &str, description, compared_with, target| {
        Figure::new(
            format!("take-over, {count} symbols, {name}"),
            description,
            "s",
            compared_with,
            target,
        )
    };
    let mut ticks = figure("latest tick", DESCRIPTION, "2 s", Target::AtMost(1.0));
    let mut candles = figure("open 1m candle", DESCRIPTION, "2 s", Target::AtMost(1.0));
    let mut outage = figure("latest tick, from the kill", FROM_KILL, "lease_ttl", Target::None);
    for _ in 0..bench.rounds {
        let (seen, acquired_us) = steadily(async || measure(bench).await).await?;
        ticks.push(longest_wait_s(&seen, Kind::Tick, &acquired_us)?, 2.0);
        candles.push(longest_wait_s(&seen, Kind::Minute, &acquired_us)?, 2.0);
        outage.push(longest_wait_s(&seen, Kind::Tick, &vec![0; acquired_us.len()])?, 5.0);
    }
    Ok(vec![ticks, candles, outage])
}

/// Observes the feed during a take-over. Returns the time at which each partition was acquired, too.
async fn measure(bench: &Bench) -> anyhow::Result<(Observed, Vec<u64>)> {
    let redis = live_redis(bench, PARTITIONS).await?;
    let start = |instance| {
        let environment = [("REDIS_URL", redis.url()), ("STORAGE_SERVICE__INSTANCE", instance)];
        bench.worker("hot-writer", &environment)
    };
    let mut first = start("first");
    serves(&mut first, PARTITIONS).await?;
    let live = Live {
        load: bench.load(0, SYMBOLS),
        partitions: PARTITIONS,
        ticks_per_s: TICKS_PER_S,
        warm_up: KILL_AFTER,
        length: Duration::from_secs(bench.sized(15, 9)),
        turn_after: None,
    };
    // At the turn of a minute, 100,000 candles would be closed; if too little of it is left, the feed begins after the
    // kill.
    let opening = Duration::from_secs(bench.sized(30, 6));
    wait_for_minute_with(opening + live.warm_up + live.length).await?;
    open_candles(bench, &redis).await?;
    let takeover = async {
        sleep(KILL_AFTER).await;
        first.kill().await;
        let second = start("second");
        let acquired_us = acquired(&redis, "second").await?;
        anyhow::Ok((second, acquired_us))
    };
    let (seen, (_second, acquired_us)) = tokio::try_join!(live.observe(&redis, &[]), takeover)?;
    Ok((seen, acquired_us))
}

/// Trades every symbol once, and waits until hot-writer has written the candles.
async fn open_candles(bench: &Bench, redis: &RedisServer) -> anyhow::Result<()> {
    let (port, load) = (redis.port()?, bench.load(0, bench.sized(100_000, 10_000)));
    spawn_blocking(move || {
        let (mut client, mut feed) = (Client::operator(port)?, Feed::new(&load));
        for chunk in symbols(load.symbols, PARTITIONS).chunks(PIPELINE) {
            for (name, partition) in chunk {
                let tick = feed.tick(now_us()?);
                // The live feed does not send this trade ID.
                let tick = Tick { trade_id: 1, ..tick };
                tick.pack_xadd(&mut client, &stream(*partition), "*", name);
            }
            client.send()?;
            client.skip(chunk.len())?;
        }
        anyhow::Ok(())
    })
    .await??;
    let (mut conn, begun) = (redis.connect(), Instant::now());
    for partition in 0..PARTITIONS {
        while !position_of(&mut conn, Stream::Ticks(partition), HOT_WRITER)
            .await?
            .is_some_and(|position| position.has_finished())
        {
            ensure!(
                begun.elapsed() < PATIENCE,
                "hot-writer did not open the candles within {PATIENCE:?}"
            );
            sleep(POLL).await;
        }
    }
    Ok(())
}

/// Waits until `instance` holds the leases of all partitions, and returns the time at which it acquired each.
async fn acquired(redis: &RedisServer, instance: &str) -> anyhow::Result<Vec<u64>> {
    let mut command = vec!["MGET".to_owned()];
    command.extend((0..PARTITIONS).map(|partition| keys::lease(HOT_WRITER, partition).to_string()));
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let (mut acquired_us, begun) = (vec![None; usize::from(PARTITIONS)], Instant::now());
    while acquired_us.contains(&None) {
        ensure!(
            begun.elapsed() < PATIENCE,
            "{instance} did not acquire all partitions within {PATIENCE:?}"
        );
        sleep(POLL).await;
        let holders: Vec<Option<String>> = redis.ask(&command).await?;
        for (acquired_us, holder) in acquired_us.iter_mut().zip(holders) {
            if holder.as_deref() == Some(instance) {
                acquired_us.get_or_insert(now_us()?);
            }
        }
    }
    Ok(acquired_us.into_iter().flatten().collect())
}

/// Returns the longest time that a tick waited for its message after its partition was acquired, in seconds.
fn longest_wait_s(seen: &Observed, kind: Kind, acquired_us: &[u64]) -> anyhow::Result<f64> {
    let names = symbols(SYMBOLS, PARTITIONS);
    let waits = seen.arrivals(kind)?.into_iter().map(|(tick, arrived_us)| {
        let (_, partition) = names[tick.symbol];
        arrived_us.saturating_sub(tick.at_us.max(acquired_us[usize::from(partition)]))
    });
    Ok(waits.max().unwrap_or_default() as f64 / 1e6)
}
