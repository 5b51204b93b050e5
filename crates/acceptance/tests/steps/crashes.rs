//! Kills between two effects: a worker is stopped at a message to a store, killed there, and started again.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use acceptance::network::{Network, Store};
use acceptance::pipeline::Pipeline;
use acceptance::proxy::{Cut, Trap};
use acceptance::publisher::Publisher;
use cucumber::gherkin::Step;
use cucumber::{given, then, when};
use futures::future::join_all;
use storage_core::testing::polling::PATIENCE;
use storage_core::testing::program::{Program, Worker};
use tokio::time::timeout;

use super::hot::rows;

/// Where a worker is killed.
struct Point {
    store: Store,
    message: String,
    passes: Cut,
}

#[given("a proxy between each worker and each of its stores")]
async fn network(world: &mut Pipeline) {
    world.network = Some(Network::default());
}

#[when(expr = "the workers are killed and started again at each of these points, {int} time(s):")]
async fn killed_at_each(world: &mut Pipeline, rounds: usize, step: &Step) {
    let mut points: BTreeMap<String, Vec<Point>> = BTreeMap::new();
    for row in rows(step) {
        points.entry(row["worker"].clone()).or_default().push(point(&row));
    }
    let mut sequences = Vec::new();
    for (name, points) in points {
        let at = world
            .workers
            .iter()
            .position(|worker| worker.name() == name)
            .expect("a worker");
        let worker = world.workers.remove(at);
        let program = world.program(&name);
        sequences.push((worker, points, program));
    }
    let scene = Scene {
        network: world.network.as_ref().expect("a network"),
        folder: world.folder.path(),
        kills: AtomicUsize::new(0),
    };
    let all = rounds * step.table.as_ref().map_or(0, |table| table.rows.len() - 1);
    let kills = sequences
        .into_iter()
        .map(|(worker, points, program)| scene.kill_at_each(worker, points, rounds, program));
    let publisher = world.publisher.as_ref().expect("a feed");
    let survivors = tokio::select! {
        survivors = join_all(kills) => survivors,
        () = spread(publisher, world.trades.len(), &scene.kills, all) => unreachable!("it never ends"),
    };
    publisher.resume();
    world
        .notes
        .insert("kills".to_owned(), scene.kills.into_inner().to_string());
    world.workers.extend(survivors);
}

/// Holds the feed back, so that it lasts as long as there are kills to come.
async fn spread(publisher: &Publisher, trades: usize, kills: &AtomicUsize, all: usize) {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        let done = kills.load(Ordering::SeqCst);
        if done > seen {
            (seen, since) = (done, Instant::now());
        }
        // A share for each kill, and some more when one lets itself be waited for.
        let waited = usize::try_from(since.elapsed().as_millis()).expect("ms") / 5;
        if publisher.position() > trades * (done + 1) / all + waited {
            publisher.pause().await;
        } else {
            publisher.resume();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[then(expr = "the workers were killed at least {int} times")]
async fn kills(world: &mut Pipeline, least: usize) {
    let kills: usize = world.notes["kills"].parse().unwrap();
    assert!(kills >= least, "{kills} kills");
}

fn point(row: &BTreeMap<String, String>) -> Point {
    let store = match row["store"].as_str() {
        "Redis" => Store::Redis,
        "PostgreSQL" => Store::Database,
        other => panic!("no store: {other}"),
    };
    let passes = match row["delivered"].as_str() {
        "nothing" => Cut::Before,
        "a part" => Cut::Within,
        "all" => Cut::After,
        other => panic!("no such part of a message: {other}"),
    };
    Point {
        store,
        message: row["message"].clone(),
        passes,
    }
}

impl Point {
    fn trap(&self) -> Trap {
        // Words of a Redis command stand apart by their lengths.
        let mut words = self.message.split(' ');
        let mut pattern = words.next().unwrap_or_default().to_owned();
        for word in words {
            pattern.push_str(&format!("\r\n${}\r\n{word}", word.len()));
        }
        Trap {
            pattern: pattern.into_bytes(),
            occurrence: 1,
            cut: self.passes,
        }
    }
}

/// What the sequences of kills have in common.
struct Scene<'a> {
    network: &'a Network,
    folder: &'a Path,
    kills: AtomicUsize,
}

impl Scene<'_> {
    async fn kill_at_each(&self, mut worker: Worker, points: Vec<Point>, rounds: usize, program: Program) -> Worker {
        let name = worker.name().to_owned();
        let begun = Instant::now();
        for point in std::iter::repeat_n(&points, rounds).flatten() {
            let snare = self.network.way(&name, point.store).trap(point.trap());
            let caught = timeout(PATIENCE, snare.caught()).await;
            let Ok(held) = caught else {
                panic!("{name} never sent {}:\n{}", point.message, worker.log());
            };
            worker.kill().await;
            drop(held);
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
