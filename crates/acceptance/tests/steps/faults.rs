//! Servers that stop, and broken contents of Redis.

use std::fs;

use acceptance::redis_server::RedisServer;
use cucumber::{given, then, when};
use storage_core::testing::polling::{until, until_true};
use storage_core::testing::process::project;

use super::check::check;
use super::world::World;

#[given("Redis is down")]
#[when("Redis is killed")]
async fn redis_down(world: &mut World) {
    acknowledged_is_written(world.pipeline.redis()).await;
    world.pipeline.redis_mut().stop();
}

/// Waits until everything that Redis has acknowledged is with the operating system, so that killing Redis loses none of
/// it. With `appendfsync everysec` Redis keeps up to two seconds to itself while the disk is slow.
async fn acknowledged_is_written(redis: &RedisServer) {
    let mut masters = redis.connect();
    let mut pause = redis::cmd("CLIENT");
    pause.arg(&["PAUSE", "5000", "WRITE"]);
    masters.of_every_master::<redis::Value>(&pause).await.unwrap();
    let mut persistence = redis::cmd("INFO");
    persistence.arg("persistence");
    until_true("the append-only file holds every write", async || {
        let infos: Vec<String> = masters.clone().of_every_master(&persistence).await.unwrap();
        infos
            .iter()
            .all(|info| info.contains("aof_enabled:0") || info.contains("aof_buffer_length:0"))
    })
    .await;
}

#[when("Redis is started again")]
async fn redis_up(world: &mut World) {
    world.pipeline.redis_mut().resume().await.unwrap();
}

#[when("Redis is stopped and started again")]
async fn redis_restarted(world: &mut World) {
    let redis = world.pipeline.redis_mut();
    redis.end_in_order();
    redis.resume().await.unwrap();
}

#[when("Redis is killed and started again")]
async fn redis_killed(world: &mut World) {
    redis_down(world).await;
    redis_up(world).await;
}

/// Sends the command to every master of a cluster, because each has its own settings and users.
#[when(regex = r"^I send `(.+)` to Redis$")]
async fn operator_sends(world: &mut World, command: String) {
    let mut words = command.split(' ');
    let mut cmd = redis::cmd(words.next().unwrap());
    cmd.arg(words.collect::<Vec<_>>());
    let mut masters = world.pipeline.redis().connect();
    masters.of_every_master::<redis::Value>(&cmd).await.unwrap();
}

#[when("PostgreSQL terminates every session")]
async fn connections_end(world: &mut World) {
    let ends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let ended = world.pipeline.value(ends).await.unwrap();
    assert_ne!(ended, "0", "number of terminated sessions");
}

#[then(expr = "the {word} is not ready and reports {string}")]
async fn not_ready(world: &mut World, name: String, problem: String) {
    let worker = world.pipeline.worker(&name);
    until("a reason on /readyz", async || match worker.get("/readyz").await {
        (503, body) if body.contains(&problem) => Ok(()),
        found => check(false, (503, &problem), found),
    })
    .await;
}

#[then(expr = "the {word} becomes ready")]
async fn becomes_ready(world: &mut World, name: String) {
    world.pipeline.worker(&name).ready().await;
}

#[given(expr = "the functions in Redis are of version {int}")]
async fn old_functions(world: &mut World, version: u32) {
    let library = fs::read_to_string(project().join("redis/functions.lua")).unwrap();
    let with_version = |line: &str| match line.starts_with("local VERSION = ") {
        true => format!("local VERSION = {version}"),
        false => line.to_owned(),
    };
    let library = library.lines().map(with_version).collect::<Vec<_>>().join("\n");
    let load = ["FUNCTION", "LOAD", "REPLACE", &library];
    world.pipeline.redis().ask::<()>(&load).await.unwrap();
}

#[given("every function is removed from Redis")]
#[when("every function is removed from Redis")]
async fn functions_removed(world: &mut World) {
    world.pipeline.lose_functions().await.unwrap();
}
