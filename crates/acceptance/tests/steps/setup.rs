//! Stores, workers and commands.

use std::net::TcpListener;
use std::time::Duration;

use acceptance::pipeline::Pipeline;
use cucumber::gherkin::Step;
use cucumber::{given, then, when};
use nix::sys::signal::Signal;
use storage_core::testing::native::NativeServer;
use storage_core::testing::postgres::TestDatabase;

use super::table::rows;

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
    world.database = TestDatabase::start_empty(world.edition()).await;
}

#[given("another database that was set up for another Redis")]
async fn other_database(world: &mut Pipeline) {
    world.close().await;
    world.database = TestDatabase::start(world.edition()).await;
}

#[given("Redis no longer names its database")]
async fn no_database_in_redis(world: &mut Pipeline) {
    world.redis.ask::<()>(&["DEL", "stream:database"]).await.unwrap();
}

#[given("a running pipeline")]
async fn running_pipeline(world: &mut Pipeline) {
    start_replicas(world, [1; 3]).await;
}

#[given(expr = "a running pipeline with {int} hot-writer(s) and {int} warm-syncer(s)")]
async fn running_replicas(world: &mut Pipeline, hot_writers: usize, warm_syncers: usize) {
    start_replicas(world, [hot_writers, warm_syncers, 1]).await;
}

async fn start_replicas(world: &mut Pipeline, replicas: [usize; 3]) {
    world.migrate().await;
    for (name, replicas) in WORKERS.into_iter().zip(replicas) {
        for replica in 1..=replicas {
            world.launch(&numbered(name, replica));
        }
    }
    for worker in &world.workers {
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
async fn all_stopped(world: &mut Pipeline) {
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
async fn receives_sigterm(world: &mut Pipeline, name: String) {
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

#[when(regex = r"^I run `(\S+) (.+)`$")]
async fn command(world: &mut Pipeline, name: String, arguments: String) {
    let arguments = arguments.replace("<folder>", &world.folder.path().display().to_string());
    let arguments: Vec<&str> = arguments.split_whitespace().collect();
    world.command(&name, &arguments).await;
}

#[when(regex = r"^I run `(\S+) (\S+)` with these options:$")]
async fn command_with_options(world: &mut Pipeline, name: String, subcommand: String, step: &Step) {
    let options = rows(step).remove(0);
    let options: Vec<String> = options
        .iter()
        .map(|(option, value)| format!("--{option}={value}"))
        .collect();
    let arguments: Vec<&str> = [subcommand.as_str()]
        .into_iter()
        .chain(options.iter().map(String::as_str))
        .collect();
    world.command(&name, &arguments).await;
}

#[when(regex = r"^((?:[a-z]+-[a-z]+(?:, )?)+) are started(?: with `(.+)`)?$")]
async fn each_started(world: &mut Pipeline, names: String, arguments: String) {
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

async fn run_each(world: &mut Pipeline, commands: &[&str], arguments: &str) {
    let arguments = arguments.replace("<folder>", &world.folder.path().display().to_string());
    world.outcomes.clear();
    for command in commands {
        let words: Vec<&str> = command.split(' ').chain(arguments.split_whitespace()).collect();
        let outcome = world.program(words[0]).run(&words[1..]).await;
        world.outcomes.insert((*command).to_owned(), outcome);
    }
}

#[when(regex = r"^every program is started(?: with `(.+)`)?$")]
async fn every_program(world: &mut Pipeline, arguments: String) {
    run_each(world, &COMMANDS, &arguments).await;
}

#[when("every program uses Redis")]
async fn every_program_of_redis(world: &mut Pipeline) {
    run_each(world, &COMMANDS, "").await;
}

#[when("every program uses PostgreSQL")]
async fn every_program_of_postgres(world: &mut Pipeline) {
    run_each(world, &COMMANDS_OF_POSTGRES, "").await;
}

#[given("another process listens on the port of the metrics")]
async fn port_in_use(world: &mut Pipeline) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    world.settings.insert("METRICS_LISTEN".to_owned(), address);
    // The listener stays open until the process of the tests ends.
    std::mem::forget(listener);
}

#[given("the database has a migration of a later version")]
async fn later_migration(world: &mut Pipeline) {
    let database = world.database.as_ref().unwrap();
    database
        .execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('29991231000000')")
        .await;
}

#[given("a database server without the database of the workers")]
async fn no_database(world: &mut Pipeline) {
    let server = NativeServer::start(None, &[]).await.unwrap().expect("a native server");
    let url = server.config().url.expose().to_owned();
    let (before, _) = url.rsplit_once('/').unwrap();
    world
        .settings
        .insert("DATABASE_URL".to_owned(), format!("{before}/absent"));
    world.other_server = Some(server);
}

#[then(expr = "each exits {int} and says {string}")]
async fn each_exits(world: &mut Pipeline, code: i32, text: String) {
    assert!(!world.outcomes.is_empty());
    for (name, outcome) in &world.outcomes {
        assert!(
            outcome.code == Some(code) && outcome.contains(&text),
            "{name}: {outcome:?}"
        );
    }
}

#[then(expr = "no output contains {string}")]
async fn no_output_contains(world: &mut Pipeline, text: String) {
    for (name, outcome) in &world.outcomes {
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
