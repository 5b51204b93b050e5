//! Changes of owner: nothing is lost, nothing counts twice.

use std::collections::BTreeMap;

use storage_core::domain::entry::Fields;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles::decode_entry;
use storage_core::testing::polling::until_true;
use storage_core::testing::redis::TestRedis;

use crate::{CANDLES, CLOSE_US, DAY_US, MINUTE_US, TICKS, current, entries, fold, tick, worker};

/// Number of ticks in each of the two minutes of [`ticks`].
const PER_MINUTE: i64 = 2_000;

/// Returns ticks of the first two minutes of the day, in turns.
fn ticks() -> Vec<Fields> {
    let minute_us = |number: i64| DAY_US + number % 2 * MINUTE_US;
    (0..2 * PER_MINUTE)
        .map(|number| tick(minute_us(number) + number, "10", number))
        .collect()
}

/// Closes both minutes, and returns the number of trades in the newest revision of each.
async fn trades(redis: &TestRedis) -> Vec<i64> {
    fold(redis, &[tick(CLOSE_US + MINUTE_US, "10", 9_999)]).await;
    let mut newest = BTreeMap::new();
    for entry in entries(redis, CANDLES).await {
        let (_, candle) = decode_entry(&entry).unwrap();
        let latest = newest.entry(candle.start_us).or_insert_with(|| candle.clone());
        if latest.revision < candle.revision {
            *latest = candle;
        }
    }
    newest.into_values().map(|candle| candle.trades).collect()
}

#[tokio::test]
async fn every_trade_counts_once_after_the_owner_was_killed() {
    let redis = TestRedis::prepared(1).await;
    let program = worker(&redis).setting("hot.batch_entries=100");
    let first = program.start("first");
    let ticks = ticks();
    let (before, after) = ticks.split_at(ticks.len() / 2);
    redis.add_all(TICKS, before).await;
    until_true("the first owner has written a candle", async || {
        current(&redis, Timeframe::M1).await.is_some()
    })
    .await;
    first.kill().await;
    // The producer repeats its last ticks after the failure.
    redis.add_all(TICKS, &before[before.len() - 500..]).await;
    redis.add_all(TICKS, after).await;
    let _second = program.start("second");
    assert_eq!(trades(&redis).await, [PER_MINUTE, PER_MINUTE]);
}

#[tokio::test]
async fn an_owner_that_stops_has_written_everything_that_it_read() {
    let redis = TestRedis::prepared(1).await;
    let first = worker(&redis).start("first");
    fold(&redis, &ticks()).await;
    first.stop().await;
    let second = worker(&redis).start("second");
    assert_eq!(trades(&redis).await, [PER_MINUTE, PER_MINUTE]);
    assert_eq!(second.metric("hot_writer_ticks_folded_total").await, 1.0);
}

#[tokio::test]
async fn two_replicas_share_the_partitions() {
    let redis = TestRedis::prepared(2).await;
    let program = worker(&redis).setting("stream.partitions=2");
    let [first, second] = ["first", "second"].map(|instance| program.start(instance));
    until_true("each replica serves a partition", async || {
        let count = "hot_writer_partitions_count";
        (first.metric(count).await, second.metric(count).await) == (1.0, 1.0)
    })
    .await;
}
