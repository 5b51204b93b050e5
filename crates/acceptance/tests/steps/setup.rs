//! Stores, workers and commands.

use std::net::TcpListener;
use std::time::Duration;

use cucumber::gherkin::Step;
use cucumber::{given, then, when};
use nix::sys::signal::Signal;
use storage_core::testing::native::NativeServer;

use super::table::rows;
use super::world::World;

const WORKERS: [&str; 3] = ["hot-writer", "warm-syncer", "aggregator-admin"];

#[given("a running hot-writer")]
async fn hot_writer(world: &mut World) {
    world.pipeline.prepare_redis().await;
    world.pipeline.start_worker("hot-writer").await;
}

#[given("Redis prepared for a hot-writer")]
async fn prepared_redis(world: &mut World) {
    world.pipeline.prepare_redis().await;
}

#[given("migrated stores")]
async fn migrated(world: &mut World) {
    world.pipeline.migrate().await;
}

#[given("an empty database")]
async fn empty_database(world: &mut World) {
    world.pipeline.start_empty_database().await;
}

#[given("another database that was set up for another Redis")]
async fn other_database(world: &mut World) {
    world.close().await;
    world.pipeline.start_database().await;
}

#[given("Redis no longer names its database")]
async fn no_database_in_redis(world: &mut World) {
    let delete = ["DEL", "stream:database"];
    world.pipeline.redis().ask::<()>(&delete).await.unwrap();
}

#[given("a running pipeline")]
async fn running_pipeline(world: &mut World) {
    start_replicas(world, [1; 3]).await;
}

#[given(expr = "a running pipeline with {int} hot-writer(s) and {int} warm-syncer(s)")]
async fn running_replicas(world: &mut World, hot_writers: usize, warm_syncers: usize) {
    start_replicas(world, [hot_writers, warm_syncers, 1]).await;
}

async fn start_replicas(world: &mut World, replicas: [usize; 3]) {
    world.pipeline.migrate().await;
    for (name, replicas) in WORKERS.into_iter().zip(replicas) {
        for replica in 1..=replicas {
            world.pipeline.launch(&numbered(name, replica));
        }
    }
    for worker in world.pipeline.workers() {
        worker.ready().await;
    }
}

fn numbered(name: &str, replica: usize) -> String {
    if replica == 1 {
        name.to_owned()
    } else {
        format!("{name} {replica}")
    }
}

#[given(expr = "the setting {word} is {string}")]
#[when(expr = "the setting {word} is {string}")]
async fn setting(world: &mut World, name: String, value: String) {
    let value = in_folder(world, &value);
    world.pipeline.set(&name, value);
}

fn in_folder(world: &World, text: &str) -> String {
    text.replace("<folder>", &world.pipeline.folder().display().to_string())
}

#[given(expr = "a configuration file with {string}")]
async fn configuration_file(world: &mut World, content: String) {
    world.pipeline.file("storage.toml", &content.replace("\\n", "\n"));
}

#[when(expr = "the {word} is started")]
#[when(expr = "the {word} is started again")]
#[given(expr = "the {word} is started")]
async fn started(world: &mut World, name: String) {
    world.pipeline.start_worker(&name).await;
}

#[when(expr = "the {word} is started without waiting for readiness")]
async fn launched(world: &mut World, name: String) {
    world.pipeline.launch(&name);
}

#[when("every worker is stopped")]
async fn all_stopped(world: &mut World) {
    for worker in world.pipeline.workers() {
        worker.signal(Signal::SIGTERM);
    }
    for worker in world.pipeline.workers() {
        let status = worker.ended().await;
        assert_eq!(status.code(), Some(0), "{}", worker.log());
    }
}

#[when(expr = "the {word} receives SIGTERM")]
#[then(expr = "the {word} receives SIGTERM")]
async fn receives_sigterm(world: &mut World, name: String) {
    world.pipeline.worker(&name).signal(Signal::SIGTERM);
}

#[when(expr = "the {word} is killed")]
async fn killed(world: &mut World, name: String) {
    world.pipeline.worker(&name).kill().await;
}

#[then(expr = "the {word} exits {int} within its grace period")]
async fn exits(world: &mut World, name: String, code: i32) {
    let worker = world.pipeline.worker(&name);
    let status = worker.ended_within(Duration::from_secs(12)).await;
    assert_eq!(status.code(), Some(code), "{}", worker.log());
}

#[when(regex = r"^I run `(\S+) (.+)`$")]
async fn command(world: &mut World, name: String, arguments: String) {
    let arguments = in_folder(world, &arguments);
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    world.outcome = Some(world.pipeline.command(&name, &arguments).await);
}

#[when(regex = r"^I run `(\S+) (\S+)` with these options:$")]
async fn command_with_options(world: &mut World, name: String, subcommand: String, step: &Step) {
    let options = rows(step).remove(0);
    let options: Vec<String> = options
        .iter()
        .map(|(option, value)| format!("--{option}={value}"))
        .collect();
    let arguments: Vec<&str> = [subcommand.as_str()]
        .into_iter()
        .chain(options.iter().map(String::as_str))
        .collect();
    world.outcome = Some(world.pipeline.command(&name, &arguments).await);
}

#[when(regex = r"^((?:[a-z]+-[a-z]+(?:, )?)+) are started(?: with `(.+)`)?$")]
async fn each_started(world: &mut World, names: String, arguments: String) {
    let commands: Vec<String> = names.split(", ").map(|name| format!("{name} run")).collect();
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    run_each(world, &commands, &arguments).await;
}

/// A command of each program that connects to Redis.
const COMMANDS: [&str; 5] = [
    "hot-writer run",
    "warm-syncer run",
    "aggregator-admin run",
    "backup-runner backup redis",
    "tick-replayer generate --ticks 1",
];
/// A command of each program that connects to PostgreSQL.
const COMMANDS_OF_POSTGRES: [&str; 3] = [
    "warm-syncer run",
    "aggregator-admin run",
    "backup-runner backup postgres",
];

async fn run_each(world: &mut World, commands: &[&str], arguments: &str) {
    let arguments = in_folder(world, arguments);
    world.outcomes.clear();
    for command in commands {
        let words: Vec<&str> = command.split(' ').chain(arguments.split_whitespace()).collect();
        let outcome = world.pipeline.program(words[0]).run(&words[1..]).await;
        world.outcomes.insert((*command).to_owned(), outcome);
    }
}

#[when(regex = r"^every program is started(?: with `(.+)`)?$")]
async fn every_program(world: &mut World, arguments: String) {
    run_each(world, &COMMANDS, &arguments).await;
}

#[when("every program uses Redis")]
async fn every_program_of_redis(world: &mut World) {
    run_each(world, &COMMANDS, "").await;
}

#[when("every program uses PostgreSQL")]
async fn every_program_of_postgres(world: &mut World) {
    run_each(world, &COMMANDS_OF_POSTGRES, "").await;
}

#[given("another process listens on the port of the metrics")]
async fn port_in_use(world: &mut World) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    world.pipeline.set("METRICS_LISTEN", address);
    // The listener stays open until the process of the tests ends.
    std::mem::forget(listener);
}

#[given("the database has a migration of a later version")]
async fn later_migration(world: &mut World) {
    let insert = "INSERT INTO __diesel_schema_migrations (version) VALUES ('29991231000000')";
    world.pipeline.rows(insert).await.unwrap();
}

#[given("a database server without the database of the workers")]
async fn no_database(world: &mut World) {
    let server = NativeServer::start(None, &[]).await.unwrap().expect("a native server");
    let (before, _) = server.config().url.expose().rsplit_once('/').unwrap();
    let url = format!("{before}/absent");
    world.pipeline.connect_to(server, url);
}

#[then(expr = "each exits {int} and says {string}")]
async fn each_exits(world: &mut World, code: i32, text: String) {
    assert!(!world.outcomes.is_empty());
    for (name, outcome) in &world.outcomes {
        assert!(
            outcome.code == Some(code) && outcome.contains(&text),
            "{name}: {outcome:?}"
        );
    }
}

#[then(expr = "no output contains {string}")]
async fn no_output_contains(world: &mut World, text: String) {
    for (name, outcome) in &world.outcomes {
        assert!(!outcome.contains(&text), "{name}: {outcome:?}");
    }
}

#[then(expr = "it exits {int}")]
async fn exit_code(world: &mut World, code: i32) {
    assert_eq!(world.outcome().code, Some(code), "{:?}", world.outcome());
}

#[then(expr = "it says {string}")]
async fn says(world: &mut World, text: String) {
    let outcome = world.outcome();
    assert!(
        outcome.contains(&text),
        "no {text:?} in:\n{}\n{}",
        outcome.stdout,
        outcome.stderr
    );
}

#[then(expr = "the log of the {word} contains {string}")]
async fn log_contains(world: &mut World, name: String, text: String) {
    world.pipeline.worker(&name).logged(&text).await;
}

#[then(expr = "it does not say {string}")]
async fn does_not_say(world: &mut World, text: String) {
    let outcome = world.outcome();
    assert!(
        !outcome.contains(&text),
        "{text:?} in:\n{}\n{}",
        outcome.stdout,
        outcome.stderr
    );
}
