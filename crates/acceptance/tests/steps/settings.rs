//! Configuration of the programs.

use std::collections::BTreeSet;

use acceptance::pipeline::Pipeline;
use cucumber::gherkin::Step;
use cucumber::{then, when};
use storage_core::testing::program::Outcome;

/// Programs, and a command of each that uses the configuration.
const PROGRAMS: [(&str, &str); 5] = [
    ("hot-writer", "run"),
    ("warm-syncer", "run"),
    ("aggregator-admin", "run"),
    ("backup-runner", "run"),
    ("tick-replayer", "generate --ticks 1"),
];

/// Durations without a default, which `check-config` does not print.
const UNSET: [&str; 3] = ["retain_ticks", "retain_candles_1m", "retain_signals"];

#[when("each number and each duration in the configuration of each program is set to zero")]
async fn zero_everywhere(world: &mut Pipeline) {
    world.outcomes.clear();
    for (name, command) in PROGRAMS {
        let program = world.program(name);
        let printed = program.run(&["check-config"]).await;
        assert_eq!(printed.code, Some(0), "{printed:?}");
        for (key, zero) in zeros(&printed) {
            let setting = format!("{key}={zero}");
            for command in ["check-config", command] {
                // A worker that accepted the setting would not exit.
                if command == "check-config" || world.outcomes[&format!("{name} check-config {key}")].code != Some(0) {
                    let words: Vec<&str> = command.split(' ').chain(["--set", &setting]).collect();
                    let outcome = program.run(&words).await;
                    world.outcomes.insert(format!("{name} {command} {key}"), outcome);
                }
            }
        }
    }
}

#[then("each program refuses it, exits 64 and names the setting, unless zero has a meaning:")]
async fn zero_refused(world: &mut Pipeline, step: &Step) {
    let table = step.table.as_ref().expect("the settings that may be zero");
    let meaningful: BTreeSet<&str> = table.rows.iter().map(|row| row[0].as_str()).collect();
    let mut accepted = BTreeSet::new();
    for (called, outcome) in &world.outcomes {
        let key = called.split(' ').next_back().unwrap_or_default();
        match outcome.code {
            Some(0) => _ = accepted.insert(key),
            code => assert!(
                code == Some(64) && outcome.contains(&format!("`{key}`")),
                "{called}: {outcome:?}"
            ),
        }
    }
    assert_eq!(accepted, meaningful, "settings that accept zero");
}

/// Returns the settings that are a number or a duration, with their value of zero.
fn zeros(printed: &Outcome) -> Vec<(String, &'static str)> {
    let config: toml::Table = printed.stdout.parse().expect("a configuration");
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
    assert!(!zeros.is_empty(), "{printed:?}");
    zeros
}
