//! Memory limit and trimming of Redis.

use acceptance::producer::{self, PARTITIONS};
use cucumber::{given, then, when};
use storage_core::redis::{inspect, look};
use storage_core::testing::polling::until;

use super::check::{check, equal};
use super::hot::length;
use super::trades::trade;
use super::world::World;

#[given(expr = "Redis has {int} MB of free memory")]
async fn room(world: &mut World, megabytes: u64) {
    let masters = inspect::memory(&mut world.pipeline.redis().connect()).await.unwrap();
    let used = masters.iter().map(|master| master.used_bytes).max().unwrap();
    let limit = (used + megabytes * 1_000_000).to_string();
    let set = ["CONFIG", "SET", "maxmemory", &limit];
    world.pipeline.redis().ask::<()>(&set).await.unwrap();
}

#[when("PostgreSQL is killed")]
async fn database_killed(world: &mut World) {
    world.pipeline.server_mut().stop().unwrap();
}

#[when("PostgreSQL is started again")]
async fn database_started(world: &mut World) {
    world.pipeline.server_mut().resume().await.unwrap();
}

#[then("Redis refuses further trades")]
async fn trades_refused(world: &mut World) {
    let feed = world.feed();
    let mut last = (feed.failures(), feed.position());
    // A single failure might have another cause, so the failures must increase while the position stays the same.
    until("refusal of trades", async || {
        let now = (feed.failures(), feed.position());
        let before = std::mem::replace(&mut last, now);
        let refused = now.0 > before.0 && now.1 == before.1;
        check(refused, "more failures at the same position", (before, now))
    })
    .await;
}

#[then("the hot-writer has read every trade that Redis accepted")]
async fn all_read(world: &mut World) {
    let worker = world.pipeline.worker("hot-writer");
    until("hot_writer_ticks_read_total", async || {
        let mut accepted = 0;
        for partition in 0..PARTITIONS {
            let stream = format!("stream:ticks:{partition}");
            accepted += length(&world.pipeline, &stream).await?;
        }
        let read = worker.metrics().await.get("hot_writer_ticks_read_total").copied();
        equal(&read, &Some(accepted as f64))
    })
    .await;
}

#[given(expr = "a consumer group {word} without consumers on every tick stream")]
async fn foreign_group(world: &mut World, group: String) {
    for partition in 0..PARTITIONS {
        let stream = format!("stream:ticks:{partition}");
        let create = ["XGROUP", "CREATE", &stream, &group, "0"];
        world.pipeline.redis().ask::<()>(&create).await.unwrap();
    }
}

/// Adds and trims in one transaction, so that no reader sees the trimmed entries.
#[when(expr = "{int} ticks of {word} arrive in one transaction that trims the stream to {int} entries")]
async fn trimmed_ticks(world: &mut World, count: usize, symbol: String, kept: usize) {
    let stream = format!("stream:ticks:{}", producer::partition(&symbol, PARTITIONS));
    let ts_us = chrono::Utc::now().timestamp_micros();
    let mut burst = redis::pipe();
    burst.atomic();
    for at in 0..count {
        let tick = trade(&symbol, ts_us, "1", "1", Some(at.to_string()));
        let add = burst.cmd("XADD").arg(&stream).arg("MAXLEN").arg(kept).arg("*");
        add.arg(producer::fields(&tick)).ignore();
    }
    burst.exec_async(&mut world.pipeline.redis().connect()).await.unwrap();
}

#[when(expr = "{int} entries are added to {word} and trimmed")]
async fn removed_entries(world: &mut World, count: usize, stream: String) {
    let redis = world.pipeline.redis();
    for _ in 0..count {
        let add = ["XADD", &stream, "*", "a", "b"];
        redis.ask::<String>(&add).await.unwrap();
    }
    let trim = ["XTRIM", &stream, "MAXLEN", "0"];
    redis.ask::<u64>(&trim).await.unwrap();
}

#[when(expr = "aggregator-admin has seen {int} entries in {word}")]
async fn looked(world: &mut World, count: u64, stream: String) {
    let mut connection = world.pipeline.redis().connect();
    let name = stream.strip_prefix("stream:").expect("the key of a stream");
    until("a look", async || {
        let looks = look::stored(&mut connection).await.map_err(|error| error.to_string())?;
        equal(&looks.get(name).map(|look| look.added), &Some(count))
    })
    .await;
}

#[when(expr = "the key {word} is deleted")]
async fn deleted(world: &mut World, key: String) {
    assert_eq!(world.pipeline.redis().ask::<u64>(&["DEL", &key]).await.unwrap(), 1);
}

#[then(expr = "the log of the {word} names the position and the first remaining entry")]
async fn names_both_ids(world: &mut World, name: String) {
    let log = world.pipeline.worker(&name).log();
    let line = log
        .lines()
        .find(|line| line.contains("before they were read"))
        .expect(&log);
    let has_id = |field: &str| {
        line.split(field)
            .nth(1)
            .is_some_and(|rest| rest.trim_matches('"').split('-').count() > 1)
    };
    assert!(
        has_id("position=") && has_id("first_left="),
        "expected two entry IDs, found {line}"
    );
}

#[then(expr = "{word} contains fewer than {int} entries")]
async fn few_left(world: &mut World, stream: String, most: usize) {
    until(&stream, async || {
        let length = length(&world.pipeline, &stream).await?;
        check(length < most, ..most, length)
    })
    .await;
}
