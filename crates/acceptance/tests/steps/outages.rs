//! Stores and networks that fail for a while, and suspended owners.

use std::time::Duration;

use acceptance::faults::NetworkFault;
use acceptance::network::Store;
use acceptance::proxy::{Breakpoint, Delivered};
use cucumber::{given, when};
use nix::sys::signal::Signal;
use storage_core::testing::native::NativeServer;
use storage_core::testing::polling::{PATIENCE, until};
use tokio::time::timeout;

use super::scaling::handed_over;
use super::world::World;

#[given("a dedicated database server")]
async fn own_server(world: &mut World) {
    let server = NativeServer::start(None, &[]).await.unwrap();
    use_server(world, server).await;
}

#[given("a dedicated database server with synchronous_commit = off")]
async fn asynchronous_server(world: &mut World) {
    // PostgreSQL writes its WAL at this interval if no commit waits for it.
    let settings = ["synchronous_commit=off", "wal_writer_delay=10s"];
    let server = NativeServer::start(None, &settings).await.unwrap();
    use_server(world, server).await;
}

#[given(expr = "a dedicated database server with a disk of {int} MB")]
async fn small_server(world: &mut World, megabytes: u32) {
    let server = NativeServer::start_with_small_disk(megabytes).await.unwrap();
    use_server(world, server).await;
}

async fn use_server(world: &mut World, server: Option<NativeServer>) {
    let server = server.expect("a native server");
    world.pipeline.use_server(server).await.unwrap();
}

#[given("a Redis with an adjustable clock")]
async fn own_clock(world: &mut World) {
    world.pipeline.redis_mut().restart_with_clock().await.unwrap();
}

#[when(expr = "PostgreSQL is down for {int} second(s)")]
async fn database_down(world: &mut World, seconds: u64) {
    let lasts = Duration::from_secs(seconds);
    world.pipeline.database_away(lasts).await.unwrap();
}

#[when(expr = "Redis is down for {int} second(s)")]
async fn redis_down(world: &mut World, seconds: u64) {
    world.pipeline.redis_away(Duration::from_secs(seconds)).await.unwrap();
}

#[when(expr = "Redis crashes and loses the writes of its last {int} ms")]
async fn lost_second(world: &mut World, ms: u64) {
    let (lasts, feed) = (Duration::from_millis(ms), world.feed.as_ref());
    world.pipeline.lose_writes_within(lasts, feed).await.unwrap();
}

#[when(regex = r"^the network (.+) for (\d+) seconds to Redis, then to PostgreSQL, then to both$")]
async fn network_fails(world: &mut World, fault: String, seconds: u64) {
    let fault = match fault.as_str() {
        "resets connections" => NetworkFault::Reset,
        "drops all data silently" => NetworkFault::Blackhole,
        "refuses connections" => NetworkFault::Refuse,
        "is slow" => NetworkFault::Slow(Duration::from_millis(20)),
        "delivers a few bytes at a time" => NetworkFault::Fragment(7),
        other => panic!("{other} is not a fault of the network"),
    };
    for store in [Some(Store::Redis), Some(Store::Database), None] {
        let lasts = Duration::from_secs(seconds);
        world.pipeline.fail_network(fault, store, lasts).await;
    }
}

#[when("the disk of the database becomes full")]
async fn disk_full(world: &mut World) {
    world.disk_filler = Some(world.pipeline.fill_disk().await.unwrap());
}

#[when("the disk of the database has free space again")]
async fn disk_freed(world: &mut World) {
    world.disk_filler.take().expect("a full disk").remove().await.unwrap();
}

#[when(expr = "PostgreSQL terminates every session in a transaction, {int} times")]
async fn transactions_end(world: &mut World, times: usize) {
    for _ in 0..times {
        world.pipeline.end_transactions().await.unwrap();
    }
}

#[when(regex = r"^the clock of Redis is set (?:to the correct time|(\d+) seconds (ahead|back))$")]
async fn clock(world: &mut World, seconds: String, direction: String) {
    let seconds: i64 = seconds.parse().unwrap_or_default();
    let seconds = if direction == "back" { -seconds } else { seconds };
    world.pipeline.redis().step_clock(seconds).unwrap();
    let now_s = chrono::Utc::now().timestamp();
    let time: Vec<String> = world.pipeline.redis().ask(&["TIME"]).await.unwrap();
    let off = time[0].parse::<i64>().unwrap() - now_s;
    assert!(
        (off - seconds).abs() <= 2,
        "expected a clock that is {seconds} seconds off, found {off}"
    );
}

#[when("every consumer group is destroyed")]
async fn groups_destroyed(world: &mut World) {
    world.pipeline.lose_groups().await.unwrap();
}

#[when("every consumer group is set back to the oldest entry")]
async fn groups_rewound(world: &mut World) {
    world.pipeline.rewind_groups().await.unwrap();
}

/// Waits for the feed's end if fewer are left: after a fault it catches up with what was due, on a slow machine with
/// everything.
#[when(expr = "{int} more trades have arrived")]
async fn more_arrived(world: &mut World, count: usize) {
    let feed = world.feed();
    let wanted = feed.position() + count;
    until("the feed", async || match feed.position() {
        position if position >= wanted => Ok(()),
        position => feed
            .done()
            .map_err(|_| format!("expected position {wanted}, found {position}")),
    })
    .await;
}

/// Suspends the worker in the middle of a write until other replicas own its partitions; then the write continues.
#[when(expr = "the {word} is suspended in the middle of a write until other replicas own its partitions")]
async fn suspended(world: &mut World, name: String) {
    let proxy = world.pipeline.network().proxy(&name, Store::Redis);
    let pending = proxy.set_breakpoint(Breakpoint {
        pattern: b"tick:latest:".to_vec(),
        occurrence: 3,
        delivered: Delivered::Nothing,
    });
    let suspended = timeout(PATIENCE, pending.reached()).await.expect("a write").unwrap();
    world.pipeline.worker(&name).signal(Signal::SIGSTOP);
    handed_over(&world.pipeline, "hot-writer", &name).await;
    suspended.resume();
    world.pipeline.worker(&name).signal(Signal::SIGCONT);
}
