//! Steps about the configuration of the programs.

use std::collections::BTreeSet;

use acceptance::pipeline::Pipeline;
use cucumber::gherkin::Step;
use cucumber::{then, when};
use storage_core::testing::program::Outcome;

/// The programs, and the command of each that uses the configuration.
const PROGRAMS: [(&str, &str); 5] = [
    ("hot-writer", "run"),
    ("warm-syncer", "run"),
    ("aggregator-admin", "run"),
    ("backup-runner", "run"),
    ("tick-replayer", "generate --ticks 1"),
];

/// Durations that are unset by default, so that `check-config` does not print them.
const UNSET: [&str; 3] = ["retain_ticks", "retain_candles_1m", "retain_signals"];

#[when("each number and each duration in the configuration of each program is set to zero")]
async fn zero_everywhere(world: &mut Pipeline) {
    world.said.clear();
    for (name, command) in PROGRAMS {
        let program = world.program(name);
        let shown = program.run(&["check-config"]).await;
        assert_eq!(shown.code, Some(0), "{shown:?}");
        for (key, zero) in zeros(&shown) {
            let setting = format!("{key}={zero}");
            for command in ["check-config", command] {
                // A worker that takes the setting would work on.
                if command == "check-config" || world.said[&format!("{name} check-config {key}")].code != Some(0) {
                    let words: Vec<&str> = command.split(' ').chain(["--set", &setting]).collect();
                    let outcome = program.run(&words).await;
                    world.said.insert(format!("{name} {command} {key}"), outcome);
                }
            }
        }
    }
}

#[then("each program refuses it, exits 64 and names the setting, unless zero has a meaning:")]
async fn zero_refused(world: &mut Pipeline, step: &Step) {
    let table = step.table.as_ref().expect("the settings that may be zero");
    let meaningful: BTreeSet<&str> = table.rows.iter().map(|row| row[0].as_str()).collect();
    let mut taken = BTreeSet::new();
    for (called, outcome) in &world.said {
        let key = called.split(' ').next_back().unwrap_or_default();
        match outcome.code {
            Some(0) => _ = taken.insert(key),
            code => assert!(
                code == Some(64) && outcome.contains(&format!("`{key}`")),
                "{called}: {outcome:?}"
            ),
        }
    }
    assert_eq!(taken, meaningful);
}

/// The settings that are a number or a duration, and what zero is there.
fn zeros(shown: &Outcome) -> Vec<(String, &'static str)> {
    let config: toml::Table = shown.stdout.parse().expect("a configuration");
    let mut zeros = Vec::new();
    for (section, values) in &config {
        let values = values.as_table().expect("a section");
        zeros.extend(values.iter().filter_map(|(key, value)| {
            let zero = match value {
                toml::Value::Integer(_) | toml::Value::Float(_) => "0",
                toml::Value::String(text) if humantime_serde::re::humantime::parse_duration(text).is_ok() => "0s",
                _ => return None,
            };
            Some((format!("{section}.{key}"), zero))
        }));
        if section == "admin" {
            zeros.extend(UNSET.map(|key| (format!("admin.{key}"), "0s")));
        }
    }
    assert!(!zeros.is_empty(), "{shown:?}");
    zeros
}
