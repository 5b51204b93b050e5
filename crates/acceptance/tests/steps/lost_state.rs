//! Loss of hot state: expired candles, all data, or all writes since a backup.

use cucumber::when;

use super::world::World;

#[when(regex = r"^every (candle|closed candle) in Redis has expired$")]
async fn candles_expired(world: &mut World, which: String) {
    let pattern = if which == "candle" {
        "candle:*"
    } else {
        "candle:recent:*"
    };
    let keys: Vec<String> = world.pipeline.redis().ask(&["KEYS", pattern]).await.unwrap();
    assert!(!keys.is_empty(), "no key matches {pattern}");
    for key in keys {
        world.pipeline.redis().ask::<()>(&["DEL", &key]).await.unwrap();
    }
}

#[when("Redis is emptied")]
async fn emptied(world: &mut World) {
    world.pipeline.redis().ask::<()>(&["FLUSHALL"]).await.unwrap();
}

#[when("every worker is killed and started again")]
async fn all_started_again(world: &mut World) {
    for name in ["hot-writer", "warm-syncer", "aggregator-admin"] {
        world.pipeline.worker(name).kill().await;
        world.pipeline.start_worker(name).await;
    }
}

#[when("Redis is backed up")]
async fn backed_up(world: &mut World) {
    world.notes.backup = Some(world.pipeline.redis().written().unwrap());
}

#[when("Redis is restored from that backup")]
async fn restored(world: &mut World) {
    let backup = world.notes.backup.take().expect("a backup");
    world.pipeline.redis_mut().crash_back_to(&backup).unwrap();
    world.pipeline.redis_mut().resume().await.unwrap();
}
