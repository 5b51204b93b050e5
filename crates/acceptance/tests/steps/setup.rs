//! Stores, workers and commands.

use std::time::Duration;

use acceptance::pipeline::Pipeline;
use cucumber::{given, then, when};
use nix::sys::signal::Signal;
use storage_core::testing::polling::PATIENCE;
use storage_core::testing::postgres::TestDatabase;

const WORKERS: [&str; 3] = ["hot-writer", "warm-syncer", "aggregator-admin"];

#[given("a running hot-writer")]
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

#[given("an empty database")]
async fn empty_database(world: &mut Pipeline) {
    world.database = TestDatabase::start_empty(world.edition).await;
}

#[given("another database that was set up for another Redis")]
async fn other_database(world: &mut Pipeline) {
    world.close().await;
    world.database = TestDatabase::start(world.edition).await;
}

#[given("Redis says no longer which database it belongs to")]
async fn no_database_in_redis(world: &mut Pipeline) {
    world.redis.ask::<()>(&["DEL", "stream:database"]).await.unwrap();
}

#[given("a running pipeline")]
async fn running_pipeline(world: &mut Pipeline) {
    copies(world, [1; 3]).await;
}

#[given(expr = "a running pipeline with {int} hot-writer(s) and {int} warm-syncer(s)")]
async fn running_copies(world: &mut Pipeline, hot_writers: usize, warm_syncers: usize) {
    copies(world, [hot_writers, warm_syncers, 1]).await;
}

async fn copies(world: &mut Pipeline, copies: [usize; 3]) {
    world.migrate().await;
    for (name, copies) in WORKERS.into_iter().zip(copies) {
        for copy in 1..=copies {
            world.launch(&numbered(name, copy));
        }
    }
    let names: Vec<String> = world.workers.iter().map(|worker| worker.name.clone()).collect();
    for name in names {
        world.worker(&name).ready().await;
    }
}

fn numbered(name: &str, copy: usize) -> String {
    if copy == 1 {
        name.to_owned()
    } else {
        format!("{name} {copy}")
    }
}

#[given(expr = "the setting {word} is {string}")]
#[when(expr = "the setting {word} is {string}")]
async fn setting(world: &mut Pipeline, name: String, value: String) {
    let value = value.replace("<folder>", &world.folder.path().display().to_string());
    match value.is_empty() {
        true => world.settings.remove(&name),
        false => world.settings.insert(name, value),
    };
}

#[given(expr = "a configuration file with {string}")]
async fn configuration_file(world: &mut Pipeline, content: String) {
    world.file("storage.toml", &content.replace("\\n", "\n"));
}

#[when(expr = "the {word} is started")]
#[when(expr = "the {word} is started again")]
#[given(expr = "the {word} is started")]
async fn started(world: &mut Pipeline, name: String) {
    world.start_worker(&name).await;
}

#[when(expr = "the {word} is started without waiting for readiness")]
async fn launched(world: &mut Pipeline, name: String) {
    world.launch(&name);
}

#[when("every worker is stopped")]
async fn all_told_to_stop(world: &mut Pipeline) {
    for worker in &mut world.workers {
        worker.signal(Signal::SIGTERM);
    }
    for worker in &mut world.workers {
        let status = worker.ended().await;
        assert_eq!(status.code(), Some(0), "{}", worker.log());
    }
}

#[when(expr = "the {word} receives SIGTERM")]
#[then(expr = "the {word} receives SIGTERM")]
async fn told_to_stop(world: &mut Pipeline, name: String) {
    world.worker(&name).signal(Signal::SIGTERM);
}

#[when(expr = "the {word} is killed")]
async fn killed(world: &mut Pipeline, name: String) {
    world.worker(&name).kill().await;
}

#[then(expr = "the {word} exits {int} within its grace period")]
async fn exits(world: &mut Pipeline, name: String, code: i32) {
    let worker = world.worker(&name);
    let status = worker.ended_within(Duration::from_secs(12)).await;
    assert_eq!(status.code(), Some(code), "{}", worker.log());
}

#[given(regex = r"^I run `(\S+) (.+)`$")]
#[when(regex = r"^I run `(\S+) (.+)`$")]
async fn command(world: &mut Pipeline, name: String, arguments: String) {
    let arguments = arguments.replace("<folder>", &world.folder.path().display().to_string());
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    world.command(&name, &arguments).await;
}

#[when(regex = r"^((?:[a-z]+-[a-z]+(?:, )?)+) are started(?: with `(.+)`)?$")]
async fn each_started(world: &mut Pipeline, names: String, arguments: String) {
    let arguments = arguments.replace("<folder>", &world.folder.path().display().to_string());
    world.said.clear();
    for name in names.split(", ") {
        let mut words: Vec<&str> = vec!["run"];
        words.extend(arguments.split_whitespace());
        let outcome = world.program(name).run(&words).await;
        world.said.insert(name.to_owned(), outcome);
    }
}

#[then(expr = "each exits {int} and says {string}")]
async fn each_exits(world: &mut Pipeline, code: i32, text: String) {
    assert!(!world.said.is_empty());
    for (name, outcome) in &world.said {
        assert!(
            outcome.code == Some(code) && outcome.contains(&text),
            "{name}: {outcome:?}"
        );
    }
}

#[then(expr = "nothing they say holds {string}")]
async fn none_says(world: &mut Pipeline, text: String) {
    for (name, outcome) in &world.said {
        assert!(!outcome.contains(&text), "{name}: {outcome:?}");
    }
}

#[then(expr = "it exits {int}")]
async fn exit_code(world: &mut Pipeline, code: i32) {
    assert_eq!(world.outcome().code, Some(code), "{:?}", world.outcome());
}

#[then(expr = "it says {string}")]
async fn says(world: &mut Pipeline, text: String) {
    let outcome = world.outcome();
    assert!(
        outcome.contains(&text),
        "no {text:?} in:\n{}\n{}",
        outcome.stdout,
        outcome.stderr
    );
}

#[then(expr = "it does not say {string}")]
async fn does_not_say(world: &mut Pipeline, text: String) {
    let outcome = world.outcome();
    assert!(
        !outcome.contains(&text),
        "{text:?} in:\n{}\n{}",
        outcome.stdout,
        outcome.stderr
    );
}
