//! Kills between two effects: a worker is suspended at a message to a store, killed and started again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use acceptance::network::{Network, Store};
use acceptance::proxy::{Breakpoint, Delivered};
use acceptance::publisher::Publisher;
use cucumber::gherkin::Step;
use cucumber::{given, then, when};
use futures::future::join_all;
use storage_core::testing::polling::PATIENCE;
use storage_core::testing::program::{Program, Worker};
use tokio::time::timeout;

use super::table::rows;
use super::world::World;

/// A message at which a worker is killed.
struct Point {
    store: Store,
    message: String,
    delivered: Delivered,
}

#[given("a proxy between each worker and each of its stores")]
async fn network(world: &mut World) {
    world.pipeline.add_network();
}

#[when(expr = "the workers are killed and started again at each of these points, {int} time(s):")]
async fn killed_at_each(world: &mut World, rounds: usize, step: &Step) {
    let mut points: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    for row in rows(step) {
        points.entry(row["worker"].clone()).or_default().push(point(&row));
    }
    let mut sequences = Vec::new();
    for (name, points) in points {
        let worker = world.pipeline.take_worker(&name);
        let program = world.pipeline.program(&name);
        sequences.push((worker, points, program));
    }
    let shared = Kills {
        network: world.pipeline.network(),
        folder: world.pipeline.folder(),
        kills: AtomicUsize::new(0),
    };
    let all = rounds * step.table.as_ref().map_or(0, |table| table.rows.len() - 1);
    let kills = sequences
        .into_iter()
        .map(|(worker, points, program)| shared.kill_at_each(worker, points, rounds, program));
    let publisher = world.feed();
    let survivors = tokio::select! {
        survivors = join_all(kills) => survivors,
        () = pace_feed(publisher, world.trades.len(), &shared.kills, all) => unreachable!("it never ends"),
    };
    publisher.resume();
    world.notes.kills = shared.kills.into_inner();
    survivors
        .into_iter()
        .for_each(|worker| world.pipeline.add_worker(worker));
}

/// Pauses the feed whenever it is ahead of the kills, so that it lasts until the last kill.
async fn pace_feed(publisher: &Publisher, trades: usize, kills: &AtomicUsize, all: usize) {
    let (mut counted, mut since) = (0, Instant::now());
    loop {
        let done = kills.load(Ordering::SeqCst);
        if done > counted {
            (counted, since) = (done, Instant::now());
        }
        // Each kill gets an equal share of the trades, and more while the next kill is awaited.
        let extra = usize::try_from(since.elapsed().as_millis()).expect("ms") / 5;
        if publisher.position() > trades * (done + 1) / all + extra {
            publisher.pause().await;
        } else {
            publisher.resume();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Starts the worker until it becomes ready before its connection breaks, each time one message later.
#[when(expr = "the {word} is started again and again, and its connection to {word} breaks at each {string} in turn")]
async fn connection_breaks_while_it_starts(world: &mut World, name: String, store: String, message: String) {
    let program = world.pipeline.program(&name);
    let proxy = world.pipeline.network().proxy(&name, of_name(&store));
    let mut broken = 0;
    loop {
        let pending = proxy.set_breakpoint(Breakpoint {
            pattern: message.clone().into_bytes(),
            occurrence: broken + 1,
            delivered: Delivered::Nothing,
        });
        let worker = program.start_in(world.pipeline.folder(), &name);
        let suspended = tokio::select! {
            biased;
            suspended = pending.reached() => Some(suspended.expect("a proxy")),
            () = worker.ready() => None,
        };
        let was_undisturbed = suspended.is_none();
        drop(suspended);
        worker.ready().await;
        worker.kill().await;
        if was_undisturbed {
            break;
        }
        broken += 1;
    }
    println!("the connection of {name} to {store} broke at {broken} messages");
    world.notes.kills = broken;
}

#[then(expr = "it broke at least {int} times, and the worker became ready each time")]
async fn broken(world: &mut World, least: usize) {
    let broken = world.notes.kills;
    assert!(broken >= least, "expected at least {least} messages, found {broken}");
}

#[then(expr = "the workers were killed at least {int} times")]
async fn kills(world: &mut World, least: usize) {
    let kills = world.notes.kills;
    assert!(kills >= least, "expected at least {least} kills, found {kills}");
}

fn of_name(store: &str) -> Store {
    match store {
        "Redis" => Store::Redis,
        "PostgreSQL" => Store::Database,
        other => panic!("{other} is not a store; use Redis or PostgreSQL"),
    }
}

fn point(row: &BTreeMap<String, String>) -> Point {
    let delivered = match row["delivered"].as_str() {
        "nothing" => Delivered::Nothing,
        "a part" => Delivered::Part,
        "all" => Delivered::All,
        other => panic!("{other} is not a part of a message; use nothing, a part or all"),
    };
    Point {
        store: of_name(&row["store"]),
        message: row["message"].clone(),
        delivered,
    }
}

impl Point {
    fn breakpoint(&self) -> Breakpoint {
        // The protocol of Redis separates the words of a command by their lengths.
        let mut words = self.message.split(' ');
        let mut pattern = words.next().unwrap_or_default().to_owned();
        for word in words {
            pattern.push_str(&format!("\r\n${}\r\n{word}", word.len()));
        }
        Breakpoint {
            pattern: pattern.into_bytes(),
            occurrence: 1,
            delivered: self.delivered,
        }
    }
}

/// Shared state of the sequences of kills.
struct Kills<'a> {
    network: &'a Network,
    folder: &'a Path,
    kills: AtomicUsize,
}

impl Kills<'_> {
    async fn kill_at_each(&self, mut worker: Worker, points: Vec<Point>, rounds: usize, program: Program) -> Worker {
        let name = worker.name().to_owned();
        let begun = Instant::now();
        for point in std::iter::repeat_n(&points, rounds).flatten() {
            let pending = self
                .network
                .proxy(&name, point.store)
                .set_breakpoint(point.breakpoint());
            let reached = timeout(PATIENCE, pending.reached()).await;
            let Ok(suspended) = reached else {
                panic!("{name} never sent {}:\n{}", point.message, worker.log());
            };
            worker.kill().await;
            drop(suspended);
            self.kills.fetch_add(1, Ordering::SeqCst);
            worker = program.start_in(self.folder, &name);
        }
        println!(
            "{name} was killed {} times in {:?}",
            points.len() * rounds,
            begun.elapsed()
        );
        worker
    }
}
