//! Servers that go away.

use acceptance::http;
use acceptance::pipeline::Pipeline;
use acceptance::wait::until;
use cucumber::{given, then, when};

#[given("Redis is down")]
#[when("Redis goes away")]
async fn redis_down(world: &mut Pipeline) {
    world.redis.stop();
}

#[when("Redis comes back")]
async fn redis_up(world: &mut Pipeline) {
    world.redis.resume().await.unwrap();
}

#[then(expr = "the {word} is not ready because of {word}")]
async fn not_ready(world: &mut Pipeline, name: String, dependency: String) {
    let port = world.worker(&name).port().await;
    until("a reason on /readyz", async || match http::get(port, "/readyz").await? {
        (503, body) if body.contains(&dependency) => Ok(()),
        (status, body) => Err(format!("{status} {body}")),
    })
    .await;
}

#[then(expr = "the {word} becomes ready")]
async fn becomes_ready(world: &mut Pipeline, name: String) {
    world.worker(&name).ready().await;
}
