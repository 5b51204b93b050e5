//! Servers that stop, and broken contents of Redis.

use std::fs;

use acceptance::pipeline::Pipeline;
use cucumber::{given, then, when};
use storage_core::testing::polling::until;
use storage_core::testing::process::project;

use super::check::check;

#[given("Redis is down")]
#[when("Redis is killed")]
async fn redis_down(world: &mut Pipeline) {
    world.redis.stop();
}

#[when("Redis is started again")]
async fn redis_up(world: &mut Pipeline) {
    world.redis.resume().await.unwrap();
}

#[when("Redis is stopped and started again")]
async fn redis_restarted(world: &mut Pipeline) {
    world.redis.end_in_order();
    world.redis.resume().await.unwrap();
}

#[when("Redis is killed and started again")]
async fn redis_killed(world: &mut Pipeline) {
    world.redis.stop();
    world.redis.resume().await.unwrap();
}

/// Sends the command to every master of a cluster, because each has its own settings and users.
#[when(regex = r"^I send `(.+)` to Redis$")]
async fn operator_sends(world: &mut Pipeline, command: String) {
    let mut words = command.split(' ');
    let mut cmd = redis::cmd(words.next().unwrap());
    cmd.arg(words.collect::<Vec<_>>());
    world
        .redis
        .connect()
        .of_every_master::<redis::Value>(&cmd)
        .await
        .unwrap();
}

#[when("PostgreSQL terminates every session")]
async fn connections_end(world: &mut Pipeline) {
    let ends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
    let ended = world.value(ends).await.unwrap();
    assert_ne!(ended, "0", "number of terminated sessions");
}

#[then(expr = "the {word} is not ready and reports {string}")]
async fn not_ready(world: &mut Pipeline, name: String, problem: String) {
    let worker = world.worker(&name);
    until("a reason on /readyz", async || match worker.get("/readyz").await {
        (503, body) if body.contains(&problem) => Ok(()),
        found => check(false, (503, &problem), found),
    })
    .await;
}

#[then(expr = "the {word} becomes ready")]
async fn becomes_ready(world: &mut Pipeline, name: String) {
    world.worker(&name).ready().await;
}

#[given(expr = "the functions in Redis are of version {int}")]
async fn old_functions(world: &mut Pipeline, version: u32) {
    let library = fs::read_to_string(project().join("redis/functions.lua")).unwrap();
    let with_version = |line: &str| match line.starts_with("local VERSION = ") {
        true => format!("local VERSION = {version}"),
        false => line.to_owned(),
    };
    let library = library.lines().map(with_version).collect::<Vec<_>>().join("\n");
    world
        .redis
        .ask::<()>(&["FUNCTION", "LOAD", "REPLACE", &library])
        .await
        .unwrap();
}

#[given("every function is removed from Redis")]
#[when("every function is removed from Redis")]
async fn functions_removed(world: &mut Pipeline) {
    world.lose_functions().await.unwrap();
}
