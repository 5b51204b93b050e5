//! Stores, workers and commands.

use std::time::Duration;

use acceptance::pipeline::Pipeline;
use acceptance::process::{program, run};
use acceptance::wait::PATIENCE;
use cucumber::{given, then, when};
use nix::sys::signal::Signal;

const WORKERS: [&str; 3] = ["hot-writer", "warm-syncer", "aggregator-admin"];

#[given("a hot-writer")]
async fn hot_writer(world: &mut Pipeline) {
    world.prepare_redis().await;
    world.start_worker("hot-writer").await;
}

#[given("Redis prepared for a hot-writer")]
async fn prepared_redis(world: &mut Pipeline) {
    world.prepare_redis().await;
}

#[given("migrated stores")]
async fn migrated(world: &mut Pipeline) {
    world.migrate().await;
}

#[given("a running pipeline")]
async fn running_pipeline(world: &mut Pipeline) {
    copies(world, 1).await;
}

#[given(expr = "a running pipeline with {int} hot-writers and {int} warm-syncers")]
async fn running_copies(world: &mut Pipeline, copies_each: usize, warm_syncers: usize) {
    assert_eq!(copies_each, warm_syncers);
    copies(world, copies_each).await;
}

async fn copies(world: &mut Pipeline, copies: usize) {
    world.migrate().await;
    for name in WORKERS {
        let count = if name == "aggregator-admin" { 1 } else { copies };
        for copy in 1..=count {
            world.launch(&numbered(name, copy));
        }
    }
    let names: Vec<String> = world.workers.iter().map(|worker| worker.name.clone()).collect();
    for name in names {
        world.worker(&name).ready().await;
    }
}

fn numbered(name: &str, copy: usize) -> String {
    if copy == 1 { name.to_owned() } else { format!("{name} {copy}") }
}

#[given(expr = "the setting {word} is {string}")]
#[when(expr = "the setting {word} is {string}")]
async fn setting(world: &mut Pipeline, name: String, value: String) {
    let value = value.replace("<folder>", &world.folder.path().display().to_string());
    world.settings.insert(name, value);
}

#[when(expr = "the {word} is started")]
#[when(expr = "the {word} is started again")]
#[given(expr = "the {word} is started")]
async fn started(world: &mut Pipeline, name: String) {
    world.start_worker(&name).await;
}

#[when(expr = "the {word} is started without waiting for it")]
async fn launched(world: &mut Pipeline, name: String) {
    world.launch(&name);
}

#[when(expr = "the {word} is told to stop")]
async fn told_to_stop(world: &mut Pipeline, name: String) {
    world.worker(&name).signal(Signal::SIGTERM);
}

#[when(expr = "the {word} is killed")]
async fn killed(world: &mut Pipeline, name: String) {
    world.worker(&name).signal(Signal::SIGKILL);
    world.worker(&name).ended(PATIENCE).await;
}

#[then(expr = "the {word} exits {int} within its grace period")]
async fn exits(world: &mut Pipeline, name: String, code: i32) {
    let worker = world.worker(&name);
    let status = worker.ended(Duration::from_secs(12)).await;
    assert_eq!(status.code(), Some(code), "{}", worker.log());
}

#[when(expr = "I run `{word}`")]
async fn command_alone(world: &mut Pipeline, name: String) {
    world.command(&name, &[]).await;
}

#[given(regex = r"^I run `(\S+) (.+)`$")]
#[when(regex = r"^I run `(\S+) (.+)`$")]
async fn command(world: &mut Pipeline, name: String, arguments: String) {
    let arguments = arguments.replace("<folder>", &world.folder.path().display().to_string());
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    world.command(&name, &arguments).await;
}

#[when(regex = r"^each worker is started with `(.+)`$")]
async fn each_with(world: &mut Pipeline, arguments: String) {
    for name in ["hot-writer", "warm-syncer", "aggregator-admin", "backup-runner"] {
        let mut words: Vec<&str> = vec!["run"];
        words.extend(arguments.split_whitespace());
        let outcome = run(&program(name), &words, &world.environment(name)).await;
        world.notes.insert(name.to_owned(), format!("exit {:?}: {}{}", outcome.code, outcome.stdout, outcome.stderr));
    }
}

#[then(expr = "each exits {int} and says {string}")]
async fn each_exits(world: &mut Pipeline, code: i32, text: String) {
    for (name, said) in &world.notes {
        assert!(said.starts_with(&format!("exit Some({code})")) && said.contains(&text), "{name}: {said}");
    }
    assert_eq!(world.notes.len(), 4);
}

#[then(expr = "it exits {int}")]
async fn exit_code(world: &mut Pipeline, code: i32) {
    assert_eq!(world.outcome().code, Some(code), "{:?}", world.outcome());
}

#[then(expr = "it says {string}")]
async fn says(world: &mut Pipeline, text: String) {
    let outcome = world.outcome();
    assert!(outcome.stdout.contains(&text) || outcome.stderr.contains(&text), "no {text:?} in:\n{}\n{}", outcome.stdout, outcome.stderr);
}

#[then(expr = "it does not say {string}")]
async fn does_not_say(world: &mut Pipeline, text: String) {
    let outcome = world.outcome();
    assert!(!outcome.stdout.contains(&text) && !outcome.stderr.contains(&text), "{text:?} in:\n{}\n{}", outcome.stdout, outcome.stderr);
}

#[then(expr = "the {word} exits {int} and says {string}")]
async fn worker_exits_saying(world: &mut Pipeline, name: String, code: i32, text: String) {
    let worker = world.worker(&name);
    let status = worker.ended(PATIENCE).await;
    let log = worker.log();
    assert!(status.code() == Some(code) && log.contains(&text), "{status}:\n{log}");
}
