//! Memory limit and trimming of Redis.

use acceptance::pipeline::Pipeline;
use acceptance::producer::{self, PARTITIONS};
use cucumber::{given, then, when};
use storage_core::redis::inspect;
use storage_core::testing::polling::until;

use super::check::{check, equal};
use super::hot::length;

#[given(expr = "Redis has {int} MB of free memory")]
async fn room(world: &mut Pipeline, megabytes: u64) {
    let masters = inspect::memory(&mut world.redis.connect()).await.unwrap();
    let used = masters.iter().map(|master| master.used_bytes).max().unwrap();
    let limit = (used + megabytes * 1_000_000).to_string();
    world
        .redis
        .ask::<()>(&["CONFIG", "SET", "maxmemory", &limit])
        .await
        .unwrap();
}

#[when("PostgreSQL is killed")]
async fn database_killed(world: &mut Pipeline) {
    let server = world.other_server.as_mut().expect("a dedicated database server");
    server.stop().unwrap();
}

#[when("PostgreSQL is started again")]
async fn database_started(world: &mut Pipeline) {
    let server = world.other_server.as_mut().expect("a dedicated database server");
    server.resume().await.unwrap();
}

#[then("Redis refuses further trades")]
async fn trades_refused(world: &mut Pipeline) {
    let publisher = world.publisher.as_ref().expect("a feed");
    let mut last = (publisher.failures(), publisher.position());
    // A single failure might have another cause, so the failures must increase while the position stays the same.
    until("refusal of trades", async || {
        let now = (publisher.failures(), publisher.position());
        let before = std::mem::replace(&mut last, now);
        let refused = now.0 > before.0 && now.1 == before.1;
        check(refused, "more failures at the same position", (before, now))
    })
    .await;
}

#[then("the hot-writer has read every trade that Redis accepted")]
async fn all_read(world: &mut Pipeline) {
    let worker = world.worker("hot-writer");
    until("hot_writer_ticks_read_total", async || {
        let mut accepted = 0;
        for partition in 0..PARTITIONS {
            let stream = format!("stream:ticks:{partition}");
            accepted += length(world, &stream).await?;
        }
        let read = worker.metrics().await.get("hot_writer_ticks_read_total").copied();
        equal(&read, &Some(accepted as f64))
    })
    .await;
}

#[given(expr = "a consumer group {word} without consumers on every tick stream")]
async fn foreign_group(world: &mut Pipeline, group: String) {
    for partition in 0..PARTITIONS {
        let stream = format!("stream:ticks:{partition}");
        world
            .redis
            .ask::<()>(&["XGROUP", "CREATE", &stream, &group, "0"])
            .await
            .unwrap();
    }
}

/// Adds and trims in one transaction, so that no reader sees the trimmed entries.
#[when(expr = "{int} ticks of {word} arrive in one transaction that trims the stream to {int} entries")]
async fn trimmed_ticks(world: &mut Pipeline, count: usize, symbol: String, kept: usize) {
    let stream = format!("stream:ticks:{}", producer::partition(&symbol, PARTITIONS));
    let ts_us = chrono::Utc::now().timestamp_micros();
    let mut burst = redis::pipe();
    burst.atomic();
    for at in 0..count {
        let mut add = redis::cmd("XADD");
        add.arg(&stream)
            .arg("MAXLEN")
            .arg(kept)
            .arg("*")
            .arg("symbol")
            .arg(&symbol);
        add.arg("ts_us")
            .arg(ts_us)
            .arg("price")
            .arg(1)
            .arg("qty")
            .arg(1)
            .arg("trade_id")
            .arg(at);
        burst.add_command(add).ignore();
    }
    burst.exec_async(&mut world.redis.connect()).await.unwrap();
}

#[when(expr = "{int} entries are added to {word} and trimmed")]
async fn removed_entries(world: &mut Pipeline, count: usize, stream: String) {
    for _ in 0..count {
        world
            .redis
            .ask::<String>(&["XADD", &stream, "*", "a", "b"])
            .await
            .unwrap();
    }
    world
        .redis
        .ask::<u64>(&["XTRIM", &stream, "MAXLEN", "0"])
        .await
        .unwrap();
}

#[then(expr = "the log of the {word} names the position and the first remaining entry")]
async fn names_both_ids(world: &mut Pipeline, name: String) {
    let log = world.worker(&name).log();
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
async fn few_left(world: &mut Pipeline, stream: String, most: usize) {
    until(&stream, async || {
        let length = length(world, &stream).await?;
        check(length < most, ..most, length)
    })
    .await;
}
