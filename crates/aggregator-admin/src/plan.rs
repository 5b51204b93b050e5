//! What TimescaleDB's policies should be, and what must change for that. Pure.

use std::time::Duration;

use storage_core::postgres::queries::policies::{Job, JobKind};

use crate::config::{AdminConfig, DAY};

/// The hypertables whose chunks can be dropped.
pub(crate) const RETAINABLE: [&str; 3] = ["ticks", "candles_1m", "signals"];

/// A policy that is not as the configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) kind: JobKind,
    pub(crate) table: String,
    /// The age that it goes by now; `None` where there is no such policy.
    pub(crate) from: Option<Duration>,
    /// The age that it should go by; `None` where there should be no such policy.
    pub(crate) to: Option<Duration>,
}

/// How long the chunks of a table are kept; `None`: for ever.
pub(crate) fn retention(config: &AdminConfig, table: &str) -> Option<Duration> {
    match table {
        "ticks" => config.retain_ticks,
        "candles_1m" => config.retain_candles_1m,
        "signals" => config.retain_signals,
        _ => None,
    }
}

/// Settings that would lose data, each with the reason and what to do.
pub(crate) fn objections(config: &AdminConfig) -> Vec<String> {
    let window = config.refresh_window;
    let mut found = Vec::new();
    // Otherwise a refresh reads days that are gone, and takes them for days without trades.
    if config.retain_candles_1m.is_some_and(|kept| kept < window + 2 * DAY) {
        found.push(format!(
            "admin.retain_candles_1m must be at least {} (admin.refresh_window and 2 days): a refresh of minutes that were dropped \
             deletes the larger candles made from them",
            days(window + 2 * DAY)
        ));
    }
    if config.retain_ticks.is_some_and(|kept| kept < window) {
        found.push(format!(
            "admin.retain_ticks must be at least {} (admin.refresh_window): a late tick's minute is computed from all of its ticks",
            days(window)
        ));
    }
    if window < 3 * DAY {
        found.push("admin.refresh_window must be at least 3 days: TimescaleDB refreshes whole buckets, two of the largest at least".to_owned());
    }
    if config.compress_after < Duration::from_secs(3_600) {
        found.push("admin.compress_after must be at least 1 hour: candles are amended so long, and a compressed chunk is slow to change".to_owned());
    }
    found
}

/// What must change so that `jobs` are as `config` says, in the order in which to do it.
pub(crate) fn changes(config: &AdminConfig, jobs: &[Job]) -> Vec<Change> {
    let wanted = |job: &Job| match job.kind {
        JobKind::Refresh => Some(config.refresh_window),
        JobKind::Compress => Some(config.compress_after),
        JobKind::Retain => retention(config, &job.table),
    };
    let of_jobs = jobs.iter().map(|job| Change {
        kind: job.kind,
        table: job.table.clone(),
        from: job.age,
        to: wanted(job),
    });
    let is_retained = |table: &str| jobs.iter().any(|job| job.kind == JobKind::Retain && job.table == table);
    let new = RETAINABLE
        .into_iter()
        .filter(|table| !is_retained(table))
        .map(|table| Change {
            kind: JobKind::Retain,
            table: table.to_owned(),
            from: None,
            to: retention(config, table),
        });
    of_jobs.chain(new).filter(|change| change.from != change.to).collect()
}

/// A duration as the configuration has it: `1day`.
pub(crate) fn days(duration: Duration) -> String {
    humantime_serde::re::humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: i32, kind: JobKind, table: &str, age: Duration) -> Job {
        Job {
            id,
            kind,
            table: table.into(),
            every: DAY,
            age: Some(age),
            config: serde_json::Value::Null,
        }
    }

    #[test]
    fn the_defaults_are_what_the_migrations_make() {
        let config = AdminConfig::default();
        let jobs = [
            job(1, JobKind::Refresh, "candles_5m", 4 * DAY),
            job(2, JobKind::Compress, "ticks", DAY),
        ];
        assert!(objections(&config).is_empty());
        assert!(changes(&config, &jobs).is_empty());
    }

    #[test]
    fn policies_are_changed_added_and_removed() {
        let config = AdminConfig {
            compress_after: 2 * DAY,
            retain_ticks: Some(30 * DAY),
            ..AdminConfig::default()
        };
        let jobs = [
            job(2, JobKind::Compress, "ticks", DAY),
            job(3, JobKind::Retain, "signals", DAY),
        ];
        let change = |kind, table: &str, from, to| Change {
            kind,
            table: table.into(),
            from,
            to,
        };
        let expected = [
            change(JobKind::Compress, "ticks", Some(DAY), Some(2 * DAY)),
            change(JobKind::Retain, "signals", Some(DAY), None),
            change(JobKind::Retain, "ticks", None, Some(30 * DAY)),
        ];
        assert_eq!(changes(&config, &jobs), expected);
    }

    #[test]
    fn settings_that_lose_data_are_refused_with_the_number_that_would_do() {
        let config = AdminConfig {
            retain_candles_1m: Some(5 * DAY),
            retain_ticks: Some(DAY),
            ..AdminConfig::default()
        };
        let found = objections(&config);
        assert!(
            found[0].contains("retain_candles_1m must be at least 6days"),
            "{found:?}"
        );
        assert!(found[1].contains("retain_ticks must be at least 4days"), "{found:?}");
    }
}
