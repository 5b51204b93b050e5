//! Compares TimescaleDB's policies with the configuration. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use storage_core::config::Misconfigured;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::queries::policies::{Job, JobKind};

use crate::config::{AdminConfig, DAY};

/// Tables with a retention setting.
pub(crate) const RETAINABLE: [&str; 8] = [
    "ticks",
    "candles_1m",
    "candles_5m",
    "candles_15m",
    "candles_1h",
    "candles_4h",
    "candles_1d",
    "signals",
];

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
        "candles_5m" => config.retain_candles_5m,
        "candles_15m" => config.retain_candles_15m,
        "candles_1h" => config.retain_candles_1h,
        "candles_4h" => config.retain_candles_4h,
        "candles_1d" => config.retain_candles_1d,
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
    for timeframe in Timeframe::ALL {
        let table = timeframe.table();
        if retention(config, table).is_none_or(|kept| kept >= window + 2 * DAY) {
            continue;
        }
        // A refresh would treat dropped days as days without trades, and create dropped candles again.
        let reason = match timeframe {
            Timeframe::D1 => "a refresh would compute dropped candles again",
            _ => "a refresh of dropped candles deletes the larger ones computed from them",
        };
        found.push(format!(
            "admin.retain_{table} must be at least {} (admin.refresh_window plus 2 days): {reason}",
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

/// Refuses a refresh window that does not reach the age from which a warm-syncer announces changes. `announced` holds
/// that age by replica.
pub(crate) fn check_windows(config: &AdminConfig, announced: &BTreeMap<String, Duration>) -> Result<(), Misconfigured> {
    let largest = announced.iter().max_by_key(|(_, age)| **age);
    match largest.filter(|(_, age)| config.refresh_window < **age + DAY) {
        None => Ok(()),
        Some((replica, age)) => Err(Misconfigured::new(format!(
            "admin.refresh_window is {} but must be at least {} (a day more than warm.refresh_window, which is {} at \
             {replica}): no refresh would see minutes that change between these ages; set one of both, and start its \
             worker again",
            days(config.refresh_window),
            days(*age + DAY),
            days(*age)
        ))),
    }
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

    #[test]
    fn every_timeframe_is_kept_longer_than_refreshes_look_back() {
        let config = AdminConfig {
            retain_candles_1m: Some(6 * DAY),
            retain_candles_5m: Some(5 * DAY),
            retain_candles_4h: Some(6 * DAY - Duration::from_secs(1)),
            retain_candles_1d: Some(DAY),
            ..AdminConfig::default()
        };
        let found = objections(&config);
        assert_eq!(found.len(), 3, "{found:?}");
        for (objection, table) in found.iter().zip(["candles_5m", "candles_4h", "candles_1d"]) {
            assert!(
                objection.starts_with(&format!("admin.retain_{table} must be at least 6days")),
                "{found:?}"
            );
        }
    }

    #[test]
    fn the_refresh_window_reaches_a_day_beyond_that_of_every_warm_syncer() {
        let config = AdminConfig::default();
        let announced = |ages: &[Duration]| (0..).zip(ages).map(|(at, age)| (format!("warm-{at}"), *age)).collect();
        let check = |ages: &[Duration]| check_windows(&config, &announced(ages));
        assert!(check(&[]).is_ok() && check(&[2 * DAY, 3 * DAY]).is_ok());
        let refused = check(&[2 * DAY, 3 * DAY + Duration::from_secs(1)])
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("is 4days but must be at least 4days 1s") && refused.contains("warm-1"),
            "{refused}"
        );
    }
}
