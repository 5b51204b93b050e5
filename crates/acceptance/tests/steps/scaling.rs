//! Replicas that are killed, stopped and added at random, and the times of their handovers.

use std::time::{Duration, Instant};

use acceptance::pipeline::Pipeline;
use acceptance::producer::PARTITIONS;
use cucumber::{then, when};
use nix::sys::signal::Signal;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use storage_core::testing::polling::until;

use super::check::check;
use super::world::World;

const REPLICAS: [(&str, &[&str]); 2] = [
    ("hot-writer", &["hot-writer", "hot-writer 2", "hot-writer 3"]),
    ("warm-syncer", &["warm-syncer", "warm-syncer 2"]),
];

/// Returns the holder of each partition's lease.
async fn holders(pipeline: &Pipeline, kind: &str) -> Vec<Option<String>> {
    let mut holders = Vec::new();
    for partition in 0..PARTITIONS {
        let lease = format!("lease:{kind}:{partition}");
        holders.push(pipeline.redis().ask(&["GET", &lease]).await.unwrap());
    }
    holders
}

/// Waits until replicas other than `instance` own every partition.
pub(crate) async fn handed_over(pipeline: &Pipeline, kind: &str, instance: &str) {
    until("handover", async || {
        let holders = holders(pipeline, kind).await;
        let others = holders
            .iter()
            .all(|holder| holder.as_ref().is_some_and(|holder| holder != instance));
        check(others, format!("holders other than {instance}"), &holders)
    })
    .await;
}

#[when(expr = "replicas are killed, stopped and added at random for {int} seconds, with seed {int}")]
async fn changing_replicas(world: &mut World, seconds: u64, seed: u64) {
    println!("the seed of the changes is {seed}");
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(seed);
    let mut changes = 0;
    let end = Instant::now() + Duration::from_secs(seconds);
    while Instant::now() < end {
        let (kind, replicas) = REPLICAS[usize::from(rng.random_bool(0.3))];
        let (live, gone): (Vec<&str>, Vec<&str>) = replicas.iter().partition(|name| world.pipeline.has_worker(name));
        let choose = |among: &[&str], rng: &mut Xoshiro256PlusPlus| among[rng.random_range(0..among.len())].to_owned();
        if live.len() > 1 && (gone.is_empty() || rng.random_bool(0.5)) {
            let signal = match rng.random_bool(0.5) {
                true => Signal::SIGKILL,
                false => Signal::SIGTERM,
            };
            let name = choose(&live, &mut rng);
            remove(world, kind, &name, signal).await;
        } else if !gone.is_empty() {
            let name = choose(&gone, &mut rng);
            println!("{name} is added");
            world.pipeline.start_worker(&name).await;
        }
        changes += 1;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..1_000))).await;
    }
    println!("{changes} changes");
    for name in REPLICAS.iter().flat_map(|(_, replicas)| *replicas) {
        if !world.pipeline.has_worker(name) {
            world.pipeline.start_worker(name).await;
        }
    }
}

/// Ends a replica and waits until others own its partitions.
async fn remove(world: &mut World, kind: &str, name: &str, signal: Signal) {
    let instance = name.replace(' ', "-");
    let had = holders(&world.pipeline, kind)
        .await
        .iter()
        .filter(|holder| holder.as_ref() == Some(&instance))
        .count();
    let begun = Instant::now();
    world.pipeline.worker(name).signal(signal);
    handed_over(&world.pipeline, kind, &instance).await;
    let took = begun.elapsed();
    println!(
        "{name} got {signal}: {had} partitions handed over in {} ms",
        took.as_millis()
    );
    // A replica without partitions has nothing to hand over.
    if had > 0 {
        let slowest = world.notes.handovers_ms.entry(signal).or_default();
        *slowest = took.as_millis().max(*slowest);
    }
    let status = world.pipeline.worker(name).ended().await;
    assert!(
        signal == Signal::SIGKILL || status.code() == Some(0),
        "{name}: {status}"
    );
    world.pipeline.take_worker(name);
}

#[then(expr = "every handover took at most {int} seconds, and at most {int} seconds after SIGTERM")]
async fn handovers(world: &mut World, all: u128, after_sigterm: u128) {
    let slowest = |signal| world.notes.handovers_ms.get(&signal).copied().unwrap_or_default();
    let (killed, stopped) = (slowest(Signal::SIGKILL), slowest(Signal::SIGTERM));
    println!("slowest handover: {killed} ms after SIGKILL, {stopped} ms after SIGTERM");
    assert!(
        killed <= all * 1_000 && stopped <= after_sigterm * 1_000,
        "expected {all} s and {after_sigterm} s at most, found {killed} ms and {stopped} ms"
    );
    assert!(
        killed > 0 && stopped > 0,
        "no handover after SIGKILL or none after SIGTERM; use another seed"
    );
}
