//! Servers that stop, and broken contents of Redis.

use std::fs;

use cucumber::{given, then, when};
use storage_core::testing::polling::until;
use storage_core::testing::process::project;

use super::check::check;
use super::world::World;

#[given("Redis is down")]
#[when("Redis is killed")]
async fn redis_down(world: &mut World) {
    world.pipeline.redis_mut().stop();
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
    let redis = world.pipeline.redis_mut();
    redis.stop();
    redis.resume().await.unwrap();
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
