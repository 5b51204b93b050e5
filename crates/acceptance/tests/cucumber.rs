//! Runs `features/*.feature` on both TimescaleDB editions, or on the one that `EDITION` names.
//!
//! `cargo test --workspace --test cucumber -- --name REGEX` runs some of them, `-- --concurrency N` several side by
//! side. A scenario that can't run on this machine is printed as `skipped: REASON (FEATURE: SCENARIO)`. The last lines
//! are the seconds of the slowest scenarios and `N passed, N failed, N skipped`, in scenarios.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a step that can't go on has failed, and the suite's output is its result"
)]

mod steps;

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use acceptance::{redis_server, requirements};
use cucumber::event::ScenarioFinished;
use cucumber::tag::Ext;
use cucumber::writer::Stats as _;
use cucumber::{World as _, cli, gherkin};
use storage_core::postgres::edition::Edition;
use storage_core::testing::process::project;

use steps::world::World;

static PASSED: AtomicUsize = AtomicUsize::new(0);
static FAILED: AtomicUsize = AtomicUsize::new(0);
static SKIPPED: AtomicUsize = AtomicUsize::new(0);
static DURATIONS: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// Number of the slowest scenarios that are printed at the end.
const SLOWEST: usize = 8;

type Options = cli::Opts<cucumber::parser::basic::Cli, cucumber::runner::basic::Cli, cucumber::writer::basic::Cli>;

#[tokio::main]
async fn main() -> ExitCode {
    // `cargo nextest` lists the tests of every binary; this one has none of the kind that it could run one by one.
    if std::env::args().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    // Two providers of TLS are linked, and one has to be chosen. An error means that one was chosen already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut sound = true;
    let editions = editions();
    for edition in &editions {
        println!("\n=== TimescaleDB {edition} edition ===\n");
        sound &= run(*edition, editions[0]).await;
    }
    let [passed, failed, skipped] = [&PASSED, &FAILED, &SKIPPED].map(|count| count.load(Ordering::Relaxed));
    print_slowest();
    println!("\n{passed} passed, {failed} failed, {skipped} skipped");
    if sound && failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print_slowest() {
    let mut durations = DURATIONS.lock().unwrap();
    durations.sort_by(|(one, _), (other, _)| other.cmp(one));
    println!();
    for (duration, scenario) in durations.iter().take(SLOWEST) {
        println!("{:6.1} s  {scenario}", duration.as_secs_f64());
    }
}

fn editions() -> Vec<Edition> {
    match std::env::var("EDITION").as_deref() {
        Ok("community") => vec![Edition::Community],
        Ok("apache") => vec![Edition::Apache],
        Ok("") | Err(_) => vec![Edition::Community, Edition::Apache],
        Ok(other) => panic!("EDITION is {other}, not community or apache"),
    }
}

/// Runs the features on an edition; `false` when a feature could not be read.
async fn run(edition: Edition, first: Edition) -> bool {
    let mut options = Options::parsed();
    let (name, tags) = (options.re_filter.take(), options.tags_filter.take());
    let chosen = move |feature: &gherkin::Feature, rule: Option<&gherkin::Rule>, scenario: &gherkin::Scenario| {
        let rule_tags = rule.iter().flat_map(|rule| &rule.tags);
        let all: Vec<String> = feature
            .tags
            .iter()
            .chain(rule_tags)
            .chain(&scenario.tags)
            .cloned()
            .collect();
        let wanted = name
            .as_ref()
            .is_none_or(|name| name.is_match(&scenario.name) || name.is_match(&feature.name))
            && tags.as_ref().is_none_or(|tags| tags.eval(all.iter()));
        if !wanted || !requirements::concerns(&all, edition, first) {
            return false;
        }
        let Some(reason) = requirements::unmet(&all, edition) else {
            return true;
        };
        println!("skipped: {reason} ({}: {})", feature.name, scenario.name);
        SKIPPED.fetch_add(1, Ordering::Relaxed);
        false
    };
    let concurrent = if redis_server::given().is_some() { 1 } else { 3 };
    let writer = World::cucumber()
        .with_cli(options)
        .max_concurrent_scenarios(concurrent)
        .fail_on_skipped()
        .before(move |_, _, _, world| {
            world.pipeline.set_edition(edition);
            Box::pin(async {})
        })
        .after(|_, _, scenario, finished, world| {
            let passed = matches!(finished, ScenarioFinished::StepPassed);
            let counter = if passed { &PASSED } else { &FAILED };
            counter.fetch_add(1, Ordering::Relaxed);
            Box::pin(async move {
                let Some(world) = world else { return };
                let name = format!("{} ({})", scenario.name, world.pipeline.edition());
                if !passed {
                    println!(
                        "--- logs of the scenario that failed: {name}\n{}",
                        world.pipeline.logs()
                    );
                }
                DURATIONS.lock().unwrap().push((world.started.elapsed(), name));
                world.close().await;
            })
        })
        .filter_run(project().join("features"), chosen)
        .await;
    writer.parsing_errors() == 0 && writer.hook_errors() == 0
}
