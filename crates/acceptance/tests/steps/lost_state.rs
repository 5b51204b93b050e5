//! Loss of hot state: expired candles, all data, or all writes since a backup.

use acceptance::pipeline::Pipeline;
use cucumber::when;

#[when(regex = r"^every (candle|closed candle) in Redis has expired$")]
async fn candles_expired(world: &mut Pipeline, which: String) {
    let pattern = if which == "candle" {
        "candle:*"
    } else {
        "candle:recent:*"
    };
    let keys: Vec<String> = world.redis.ask(&["KEYS", pattern]).await.unwrap();
    assert!(!keys.is_empty(), "no key matches {pattern}");
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
