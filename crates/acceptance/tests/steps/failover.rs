//! Failover of Redis.

use std::time::Instant;

use acceptance::replicated::Replicated;
use cucumber::{given, when};
use storage_core::testing::polling::until;

use super::world::World;

#[given("Redis with a replica and a Sentinel")]
async fn replicated(world: &mut World) {
    let replicated = Replicated::start(world.pipeline.redis_mut()).await.unwrap();
    world.notes.replicated = Some(replicated);
}

/// Makes the producer send again what it sent since the failover began: the old master accepts writes until it becomes
/// a replica, and then loses them.
#[when("I trigger a failover")]
async fn demoted(world: &mut World) {
    let begun = Instant::now();
    let replicated = world.notes.replicated.as_mut().expect("a replica");
    replicated.fail_over().await.unwrap();
    until("the old master is a replica", async || replicated.is_in_order().await).await;
    rewind(world, begun);
}

#[when("the master is killed and its replica is promoted")]
async fn master_killed(world: &mut World) {
    // Writes that were not replicated before the kill are lost.
    let begun = Instant::now();
    let replicated = world.notes.replicated.as_mut().expect("a replica");
    replicated.kill_master(world.pipeline.redis_mut()).await.unwrap();
    rewind(world, begun);
}

fn rewind(world: &World, to: Instant) {
    if let Some(feed) = &world.feed {
        feed.rewind_to_time(to);
    }
}
