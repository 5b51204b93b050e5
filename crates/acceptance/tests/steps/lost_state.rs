//! What Redis has lost: candles that have expired, everything, or everything since a backup.

use acceptance::oracle::{Trade, micros};
use acceptance::pipeline::Pipeline;
use cucumber::when;
use nix::sys::signal::Signal;
use storage_core::testing::polling::PATIENCE;

const SECOND_US: i64 = 1_000_000;

#[when(expr = "{int} trades of {word} arrive, one per second from {word}")]
async fn trades_arrive(world: &mut Pipeline, count: i64, symbol: String, from: String) {
    for at in 0..count {
        let trade = Trade {
            symbol: symbol.clone(),
            ts_us: micros(&from) + at * SECOND_US,
            price: format!("{}.5", 100 + (at * 37) % 11),
            qty: format!("0.{}", at + 1),
            id: Some(world.trades.len().to_string()),
        };
        world.send(trade).await;
    }
}

#[when(expr = "a trade of {word} arrives with the event time {word}")]
async fn trade_arrives(world: &mut Pipeline, symbol: String, time: String) {
    trades_arrive(world, 1, symbol, time).await;
}

#[when(regex = r"^every (candle|closed candle) in Redis has expired$")]
async fn candles_expired(world: &mut Pipeline, which: String) {
    let pattern = if which == "candle" {
        "candle:*"
    } else {
        "candle:recent:*"
    };
    let keys: Vec<String> = world.redis.ask(&["KEYS", pattern]).await.unwrap();
    assert!(!keys.is_empty());
    for key in keys {
        world.redis.ask::<()>(&["DEL", &key]).await.unwrap();
    }
}

#[when("Redis is emptied")]
async fn emptied(world: &mut Pipeline) {
    world.redis.ask::<()>(&["FLUSHALL"]).await.unwrap();
}

#[when("every worker is killed and started again")]
async fn all_started_again(world: &mut Pipeline) {
    for name in ["hot-writer", "warm-syncer", "aggregator-admin"] {
        world.worker(name).kill().await;
        world.start_worker(name).await;
    }
}

#[when("Redis is backed up")]
async fn backed_up(world: &mut Pipeline) {
    world.backup = Some(world.redis.written().unwrap());
}

#[when("Redis is restored from that backup")]
async fn restored(world: &mut Pipeline) {
    let backup = world.backup.take().expect("a backup");
    world.redis.crash_back_to(&backup).unwrap();
    world.redis.resume().await.unwrap();
}
