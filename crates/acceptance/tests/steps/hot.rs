//! The hot view: hashes, TTLs and streams.

use std::collections::BTreeSet;

use acceptance::oracle::{self, lots, micros};
use acceptance::pipeline::Pipeline;
use acceptance::producer::{self, PARTITIONS};
use cucumber::gherkin::Step;
use cucumber::then;
use redis::FromRedisValue;
use storage_core::testing::polling::until;

use super::check::{check, equal, same};
use super::table::rows;
use super::world::World;

/// Returns Redis's reply to a command; an error as text.
async fn reply<T: FromRedisValue>(pipeline: &Pipeline, command: &[&str]) -> Result<T, String> {
    pipeline.redis().ask(command).await.map_err(|error| error.to_string())
}

#[then(expr = "the hash {word} contains:")]
async fn hash_shows(world: &mut World, key: String, step: &Step) {
    let expected = rows(step).remove(0);
    until(&key, async || {
        let hash = world.pipeline.hash(&key).await?;
        let equal = expected
            .iter()
            .all(|(name, value)| hash.get(name).is_some_and(|found| same(found, value)));
        check(equal, &expected, &hash)
    })
    .await;
}

#[then("the open candle of every symbol in every timeframe is the aggregate of its trades")]
async fn all_open_candles(world: &mut World) {
    let symbols = world.trades.iter().map(|trade| trade.symbol.clone()).collect();
    open_candles_of(world, symbols).await;
}

#[then(expr = "the open candle of {word} in every timeframe is the aggregate of its trades")]
async fn open_candles(world: &mut World, symbol: String) {
    open_candles_of(world, BTreeSet::from([symbol])).await;
}

async fn open_candles_of(world: &World, symbols: BTreeSet<String>) {
    for timeframe in ["1m", "5m", "15m", "1h", "4h", "1d"] {
        let bars = oracle::group(&world.trades, oracle::width_us(timeframe));
        for symbol in &symbols {
            let ((_, start_us), expected) = bars.iter().rfind(|((of, _), _)| of == symbol).expect("a candle");
            let key = format!("candle:current:{timeframe}:{symbol}");
            until(&key, async || {
                let hash = world.pipeline.hash(&key).await?;
                let number = |name: &str| hash.get(name).and_then(|text| text.parse::<f64>().ok());
                let equal = hash.get("time").is_some_and(|time| micros(time) == *start_us)
                    && number("open") == Some(expected.open)
                    && number("high") == Some(expected.high)
                    && number("low") == Some(expected.low)
                    && number("close") == Some(expected.close)
                    && hash.get("volume").is_some_and(|volume| lots(volume) == expected.lots)
                    && hash
                        .get("trades")
                        .is_some_and(|trades| *trades == expected.trades.to_string());
                check(equal, expected, &hash)
            })
            .await;
        }
    }
}

#[then(expr = "the key {word} expires in {int} to {int} seconds")]
async fn expires(world: &mut World, key: String, least: i64, most: i64) {
    until(&key, async || {
        let ttl: i64 = reply(&world.pipeline, &["TTL", &key]).await?;
        check((least..=most).contains(&ttl), least..=most, ttl)
    })
    .await;
}

#[then(expr = "the key {word} expires")]
async fn key_expires(world: &mut World, key: String) {
    exists(&world.pipeline, &key, false).await;
}

#[then(expr = "the key {word} exists")]
async fn key_exists(world: &mut World, key: String) {
    exists(&world.pipeline, &key, true).await;
}

async fn exists(pipeline: &Pipeline, key: &str, expected: bool) {
    let what = format!("existence of the key {key}");
    until(&what, async || {
        equal(&reply::<bool>(pipeline, &["EXISTS", key]).await?, &expected)
    })
    .await;
}

async fn keys(pipeline: &Pipeline) -> Vec<String> {
    let mut keys: Vec<String> = pipeline.redis().ask(&["KEYS", "*"]).await.unwrap();
    keys.sort();
    keys
}

#[then("every key is documented")]
async fn documented_keys(world: &mut World) {
    let documented = |key: &str| {
        let parts: Vec<&str> = key.split(':').collect();
        match parts[..] {
            ["tick", "latest", _] | ["signal", "active", _] => true,
            ["candle", "current", timeframe, _] => ["1m", "5m", "15m", "1h", "4h", "1d"].contains(&timeframe),
            ["candle", "recent" | "restored", _, _, start] => start.parse::<i64>().is_ok(),
            ["stream", "ticks" | "candles" | "open" | "since", partition] => partition.parse::<u16>().is_ok(),
            [
                "stream",
                "signals" | "feeds" | "repairs" | "rollups" | "backups" | "dead" | "partitions" | "symbols",
            ] => true,
            ["stream", "backups", "last"] => true,
            ["lease", "hot-writer", "loads"] => true,
            ["lease", "hot-writer" | "aggregator-admin", owner] => owner == "members" || owner.parse::<u16>().is_ok(),
            _ => false,
        }
    };
    let mut undocumented = keys(&world.pipeline).await;
    undocumented.retain(|key| !documented(key));
    assert!(undocumented.is_empty(), "undocumented keys: {undocumented:?}");
}

#[then("every key has a TTL, except the streams and their bookkeeping")]
async fn keys_have_ttl(world: &mut World) {
    for key in keys(&world.pipeline).await {
        let ttl: i64 = world.pipeline.redis().ask(&["PTTL", &key]).await.unwrap();
        assert_eq!(ttl == -1, key.starts_with("stream:"), "{key} has TTL {ttl} ms");
    }
}

#[then(expr = "the stream of closed candles of {word} contains {int} entry/entries")]
async fn closed(world: &mut World, symbol: String, count: usize) {
    let stream = format!("stream:candles:{}", producer::partition(&symbol, PARTITIONS));
    let what = format!("number of entries of {stream}");
    until(&what, async || equal(&length(&world.pipeline, &stream).await?, &count)).await;
}

/// Returns the number of entries of a stream.
pub(crate) async fn length(pipeline: &Pipeline, stream: &str) -> Result<usize, String> {
    reply(pipeline, &["XLEN", stream]).await
}

#[then(expr = "the 1-minute candle of {word} is final in Redis")]
async fn candle_final(world: &mut World, symbol: String) {
    let key = format!("candle:current:1m:{symbol}");
    until(&key, async || {
        let hash = world.pipeline.hash(&key).await?;
        check(hash.get("final").is_some_and(|value| value == "1"), "final 1", &hash)
    })
    .await;
}
