//! Kills between two effects: a worker is stopped at a message to a store, killed there, and started again.

use std::collections::BTreeMap;
use std::path::Path;

use acceptance::network::{Network, Store};
use acceptance::pipeline::Pipeline;
use acceptance::process::Worker;
use acceptance::proxy::{Cut, Trap};
use acceptance::wait::PATIENCE;
use cucumber::gherkin::Step;
use cucumber::{given, then, when};
use nix::sys::signal::Signal;
use tokio::time::timeout;

use super::hot::rows;

/// Where a worker is killed.
struct Point {
    store: Store,
    message: String,
    passes: Cut,
}

#[given("a network that can fail between the workers and their stores")]
async fn network(world: &mut Pipeline) {
    world.network = Some(Network::default());
}

#[when(expr = "the workers are killed at each of these points, {int} time(s), and started again:")]
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
            .position(|worker| worker.name == name)
            .expect("a worker");
        let worker = world.workers.remove(at);
        let environment = world.environment(&name);
        sequences.push((worker, points, environment));
    }
    let (network, folder) = (world.network.as_ref().expect("a network"), world.folder.path());
    let kills = sequences
        .into_iter()
        .map(|(worker, points, environment)| kill_at_each(worker, points, rounds, environment, network, folder));
    let mut count = 0;
    for (worker, kills) in futures::future::join_all(kills).await {
        println!("{} was killed {kills} times", worker.name);
        count += kills;
        world.workers.push(worker);
    }
    world.notes.insert("kills".to_owned(), count.to_string());
}

#[then(expr = "there were at least {int} kills")]
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
    let passes = match row["gets through"].as_str() {
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

async fn kill_at_each(
    mut worker: Worker,
    points: Vec<Point>,
    rounds: usize,
    environment: Vec<(String, String)>,
    network: &Network,
    folder: &Path,
) -> (Worker, usize) {
    let name = worker.name.clone();
    let mut kills = 0;
    for point in std::iter::repeat_n(&points, rounds).flatten() {
        let snare = network.way(&name, point.store).trap(point.trap());
        let caught = timeout(PATIENCE, snare.caught()).await;
        let Ok(held) = caught else {
            panic!(
                "{name} never sent {}, after {kills} kills:\n{}",
                point.message,
                worker.log()
            );
        };
        worker.signal(Signal::SIGKILL);
        worker.ended(PATIENCE).await;
        drop(held);
        kills += 1;
        worker = Worker::start(&name, &["run"], &environment, folder);
    }
    (worker, kills)
}
