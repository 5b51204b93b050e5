//! Compares TimescaleDB's policies with the configuration. Pure.

use std::time::Duration;

use storage_core::config::Misconfigured;
use storage_core::postgres::queries::policies::{Job, JobKind};

use crate::config::{AdminConfig, DAY};

/// Hypertables with a retention setting.
pub(crate) const RETAINABLE: [&str; 3] = ["ticks", "candles_1m", "signals"];

/// Policy that differs from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) kind: JobKind,
    pub(crate) table: String,
    /// Current age; `None` without such a policy.
    pub(crate) from: Option<Duration>,
    /// Configured age; `None` if the policy is to be removed.
    pub(crate) to: Option<Duration>,
}

/// Returns the age at which chunks of a table are dropped; `None`: never.
pub(crate) fn retention(config: &AdminConfig, table: &str) -> Option<Duration> {
    match table {
        "ticks" => config.retain_ticks,
        "candles_1m" => config.retain_candles_1m,
        "signals" => config.retain_signals,
        _ => None,
    }
}

/// Refuses settings that would lose data.
pub(crate) fn check(config: &AdminConfig) -> Result<(), Misconfigured> {
    match objections(config).as_slice() {
        [] => Ok(()),
        objections => Err(Misconfigured::new(objections.join("; "))),
    }
}

/// Returns the settings that would lose data, each with the required value and the reason.
fn objections(config: &AdminConfig) -> Vec<String> {
    let window = config.refresh_window;
    let mut found = Vec::new();
    // A refresh would treat dropped days as days without trades.
    if config.retain_candles_1m.is_some_and(|kept| kept < window + 2 * DAY) {
        found.push(format!(
            "admin.retain_candles_1m must be at least {} (admin.refresh_window plus 2 days): a refresh of dropped \
             minutes deletes the larger candles computed from them",
            days(window + 2 * DAY)
        ));
    }
    if config.retain_ticks.is_some_and(|kept| kept < window) {
        found.push(format!(
            "admin.retain_ticks must be at least {} (admin.refresh_window): the minute of a late tick is computed from \
             all of its ticks",
            days(window)
        ));
    }
    if window < 3 * DAY {
        found.push(
            "admin.refresh_window must be at least 3days: TimescaleDB requires two whole buckets of the largest \
             timeframe in it"
                .to_owned(),
        );
    }
    if config.compress_after < Duration::from_secs(3_600) {
        found.push(
            "admin.compress_after must be at least 1h: candles are amended that long, and changes of a compressed \
             chunk are slow"
                .to_owned(),
        );
    }
    found
}

/// Returns the changes that make `jobs` agree with `config`, in the order in which to apply them.
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

/// Formats a duration as the configuration writes it: `1day`.
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
    fn the_default_settings_change_no_policy_of_the_migrations() {
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
    fn settings_that_lose_data_are_refused_with_the_required_value() {
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
