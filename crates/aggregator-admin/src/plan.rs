//! Compares TimescaleDB's policies and chunk intervals with the configuration. Pure.

pub(crate) mod check;

use std::collections::BTreeMap;
use std::time::Duration;

use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::queries::policies::{Job, JobKind};

use crate::config::{AdminConfig, DAY};
use crate::rollups::ranges::LARGER;

/// Tables with a retention and a chunk interval.
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

const HOUR: Duration = Duration::from_secs(3_600);

/// Settings of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) age: Option<Duration>,
    /// Interval between two runs.
    pub(crate) every: Duration,
}

/// Difference from the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Policy that is changed, added (`from` is `None`) or removed (`to` is `None`).
    Policy {
        kind: JobKind,
        table: String,
        from: Option<Policy>,
        to: Option<Policy>,
    },
    /// Time that a new chunk spans.
    Chunks {
        table: String,
        from: Duration,
        to: Duration,
    },
}

impl Change {
    /// Returns the table or continuous aggregate that is changed.
    pub(crate) fn table(&self) -> &str {
        match self {
            Self::Policy { table, .. } | Self::Chunks { table, .. } => table,
        }
    }
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

/// Returns the configured chunk interval of a table; `None`: that of the migrations.
fn chunk_setting(config: &AdminConfig, table: &str) -> Option<Duration> {
    match table {
        "ticks" => config.chunk_ticks,
        "candles_1m" => config.chunk_candles_1m,
        "candles_5m" => config.chunk_candles_5m,
        "candles_15m" => config.chunk_candles_15m,
        "candles_1h" => config.chunk_candles_1h,
        "candles_4h" => config.chunk_candles_4h,
        "candles_1d" => config.chunk_candles_1d,
        "signals" => config.chunk_signals,
        _ => None,
    }
}

/// Returns the time that a new chunk of a table spans.
fn chunk_interval(config: &AdminConfig, edition: Edition, table: &str) -> Duration {
    let of_migrations = match (table, edition) {
        ("ticks" | "candles_1m", _) => 1,
        ("candles_5m" | "candles_15m", Edition::Community) => 10,
        ("candles_15m", Edition::Apache) => 14,
        ("candles_1h", Edition::Community) => 40,
        ("candles_1h", Edition::Apache) => 60,
        ("candles_4h", Edition::Community) => 160,
        ("candles_4h", Edition::Apache) => 180,
        ("candles_1d", _) => 1_000,
        _ => 7,
    };
    chunk_setting(config, table).unwrap_or(of_migrations * DAY)
}

/// Returns the interval between two runs of a policy.
pub(crate) fn interval(config: &AdminConfig, edition: Edition, kind: JobKind, table: &str) -> Duration {
    let setting = match kind {
        JobKind::Refresh => config.refresh_every,
        JobKind::Compress => config.compress_every,
        JobKind::Retain => config.retain_every,
    };
    setting.unwrap_or_else(|| match (edition, kind) {
        (Edition::Apache, _) => config.policy_interval,
        (Edition::Community, JobKind::Refresh) => {
            let timeframe = LARGER.into_iter().find(|timeframe| timeframe.table() == table);
            timeframe.map_or(HOUR, |timeframe| length(timeframe).min(HOUR))
        }
        (Edition::Community, JobKind::Compress) => HOUR,
        (Edition::Community, JobKind::Retain) => DAY,
    })
}

/// Returns the time in which a change of a minute reaches the largest timeframe. Each policy of the Community edition
/// sees a change only when that of the next smaller timeframe has run. aggregator-admin runs all of them in a turn.
fn refresh_delay(config: &AdminConfig, edition: Edition) -> Duration {
    let intervals = LARGER.map(|timeframe| interval(config, edition, JobKind::Refresh, timeframe.table()));
    match edition {
        Edition::Community => intervals
            .into_iter()
            .fold(Duration::ZERO, Duration::saturating_add)
            .max(config.policy_interval),
        Edition::Apache => intervals.into_iter().max().unwrap_or_default(),
    }
}

fn length(timeframe: Timeframe) -> Duration {
    Duration::from_secs(timeframe.seconds().unsigned_abs())
}

/// Returns the changes that make `jobs` and the chunk intervals `chunks` agree with `config`, in the order in which to
/// apply them.
pub(crate) fn changes(
    config: &AdminConfig,
    edition: Edition,
    jobs: &[Job],
    chunks: &BTreeMap<String, Duration>,
) -> Vec<Change> {
    let policies = match edition {
        Edition::Community => changes_of_policies(config, edition, jobs),
        Edition::Apache => Vec::new(),
    };
    let chunks = chunks
        .iter()
        .filter(|(table, _)| RETAINABLE.contains(&table.as_str()))
        .map(|(table, from)| (table, *from, chunk_interval(config, edition, table)))
        .filter(|(_, from, to)| from != to)
        .map(|(table, from, to)| Change::Chunks {
            table: table.clone(),
            from,
            to,
        });
    policies.into_iter().chain(chunks).collect()
}

fn changes_of_policies(config: &AdminConfig, edition: Edition, jobs: &[Job]) -> Vec<Change> {
    let wanted = |kind, table: &str| {
        let age = match kind {
            JobKind::Refresh => Some(config.refresh_window),
            JobKind::Compress => Some(config.compress_after),
            JobKind::Retain => retention(config, table),
        };
        let every = interval(config, edition, kind, table);
        age.map(|age| Policy { age: Some(age), every })
    };
    let present = jobs.iter().map(|job| {
        let (age, every) = (job.age, job.every);
        (job.kind, job.table.as_str(), Some(Policy { age, every }))
    });
    let is_retained = |table: &str| jobs.iter().any(|job| job.kind == JobKind::Retain && job.table == table);
    let new = RETAINABLE
        .into_iter()
        .filter(|table| !is_retained(table))
        .map(|table| (JobKind::Retain, table, None));
    present
        .chain(new)
        .map(|(kind, table, from)| Change::Policy {
            kind,
            table: table.to_owned(),
            from,
            to: wanted(kind, table),
        })
        .filter(|change| !matches!(change, Change::Policy { from, to, .. } if from == to))
        .collect()
}

/// Formats a duration as the configuration writes it, without months and years: `1day`, `1000days 1h`.
pub(crate) fn days(duration: Duration) -> String {
    let (days, rest) = (duration.as_secs() / DAY.as_secs(), duration.as_secs() % DAY.as_secs());
    let whole = format!("{days}day{}", if days == 1 { "" } else { "s" });
    let rest = Duration::new(rest, duration.subsec_nanos());
    let rest_text = humantime_serde::re::humantime::format_duration(rest).to_string();
    match (days, rest.is_zero()) {
        (0, _) => rest_text,
        (_, true) => whole,
        (_, false) => format!("{whole} {rest_text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: i32, kind: JobKind, table: &str, age: Duration, every: Duration) -> Job {
        Job {
            id,
            kind,
            table: table.into(),
            every,
            age: Some(age),
            config: serde_json::Value::Null,
        }
    }

    fn policy(age: Duration, every: Duration) -> Option<Policy> {
        Some(Policy { age: Some(age), every })
    }

    fn chunks(lengths: &[(&str, u32)]) -> BTreeMap<String, Duration> {
        let of_table = |(table, days): &(&str, u32)| ((*table).to_owned(), DAY * *days);
        lengths.iter().map(of_table).collect()
    }

    #[test]
    fn durations_are_formatted_in_days() {
        let second = Duration::from_secs(1);
        let durations = [HOUR + second, DAY, 31 * DAY, 1_000 * DAY + HOUR];
        assert_eq!(durations.map(days), ["1h 1s", "1day", "31days", "1000days 1h"]);
    }

    #[test]
    fn the_default_settings_change_no_policy_of_the_migrations() {
        let config = AdminConfig::default();
        let jobs = [
            job(1, JobKind::Refresh, "candles_5m", 4 * DAY, HOUR / 12),
            job(2, JobKind::Refresh, "candles_4h", 4 * DAY, HOUR),
            job(3, JobKind::Compress, "ticks", DAY, HOUR),
        ];
        let present = chunks(&[("ticks", 1), ("signals", 7), ("candles_1h", 40), ("mine", 3)]);
        assert!(check::settings(&config).is_ok());
        assert_eq!(changes(&config, Edition::Community, &jobs, &present), []);
    }

    #[test]
    fn policies_are_changed_added_and_removed() {
        let config = AdminConfig {
            compress_after: 2 * DAY,
            retain_ticks: Some(30 * DAY),
            ..AdminConfig::default()
        };
        let jobs = [
            job(2, JobKind::Compress, "ticks", DAY, HOUR),
            job(3, JobKind::Retain, "signals", DAY, DAY),
        ];
        let change = |kind, table: &str, from, to| Change::Policy {
            kind,
            table: table.into(),
            from,
            to,
        };
        let expected = [
            change(JobKind::Compress, "ticks", policy(DAY, HOUR), policy(2 * DAY, HOUR)),
            change(JobKind::Retain, "signals", policy(DAY, DAY), None),
            change(JobKind::Retain, "ticks", None, policy(30 * DAY, DAY)),
        ];
        assert_eq!(changes(&config, Edition::Community, &jobs, &BTreeMap::new()), expected);
    }

    #[test]
    fn schedules_and_chunk_intervals_are_changed() {
        let config = AdminConfig {
            refresh_every: Some(HOUR / 2),
            retain_every: Some(2 * HOUR),
            retain_ticks: Some(30 * DAY),
            chunk_ticks: Some(6 * HOUR),
            ..AdminConfig::default()
        };
        let jobs = [
            job(1, JobKind::Refresh, "candles_5m", 4 * DAY, HOUR / 12),
            job(2, JobKind::Compress, "ticks", DAY, HOUR),
            job(3, JobKind::Retain, "ticks", 30 * DAY, DAY),
        ];
        let present = chunks(&[("ticks", 1), ("candles_5m", 7)]);
        let change = |kind, table: &str, age, from, to| Change::Policy {
            kind,
            table: table.into(),
            from: policy(age, from),
            to: policy(age, to),
        };
        let of_chunks = |table: &str, from, to| Change::Chunks {
            table: table.into(),
            from,
            to,
        };
        let expected = [
            change(JobKind::Refresh, "candles_5m", 4 * DAY, HOUR / 12, HOUR / 2),
            change(JobKind::Retain, "ticks", 30 * DAY, DAY, 2 * HOUR),
            of_chunks("candles_5m", 7 * DAY, 10 * DAY),
            of_chunks("ticks", DAY, 6 * HOUR),
        ];
        assert_eq!(changes(&config, Edition::Community, &jobs, &present), expected);
        let of_apache = [of_chunks("ticks", DAY, 6 * HOUR)];
        assert_eq!(changes(&config, Edition::Apache, &[], &present), of_apache);
    }
}
