//! Data of the status report, in the form that `--json` prints. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use storage_core::domain::time::{ms_to_us, rfc3339};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::{Edition, Server};
use storage_core::postgres::queries::policies;
use storage_core::postgres::queries::spans::Span;
use storage_core::postgres::queries::storage;
use storage_core::postgres::queries::verified::VerifiedDay;
use storage_core::redis::codec::backups::BackupAnnouncement;
use storage_core::redis::lost;
use storage_core::redis::write_load::WriteLoad;

#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Changes of the schema by hand, with the way out.
    pub(super) drift: Vec<String>,
    pub(super) history: Option<History>,
    pub(super) hot: Option<Hot>,
    /// Settings of Redis that may lose data.
    pub(super) warnings: Vec<String>,
    /// Failed checks, and settings of Redis that lose data.
    pub(super) problems: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct History {
    pub(super) postgres_version: String,
    pub(super) timescaledb_version: String,
    pub(super) edition: String,
    /// Program that runs the policies.
    pub(super) scheduler: &'static str,
    pub(super) database: String,
    /// Known faults of these versions, and settings of the server that put the history at risk.
    pub(super) warnings: Vec<String>,
    pub(super) schema_pending: Vec<String>,
    pub(super) tables: Vec<Table>,
    pub(super) compression: Compression,
    pub(super) rollups: Vec<Rollup>,
    pub(super) jobs: Vec<Job>,
    pub(super) verification: Verification,
    /// Number of dead letters that were not requeued, by stream.
    pub(super) dead_letters: BTreeMap<String, i64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Table {
    pub(super) table: &'static str,
    pub(super) rows: i64,
    /// `true` if `rows` is an estimate, because counting a large table takes long.
    pub(super) rows_estimated: bool,
    pub(super) oldest: Option<String>,
    pub(super) newest: Option<String>,
    pub(super) size_bytes: Option<i64>,
    pub(super) chunks: Option<i64>,
    pub(super) compressed_chunks: Option<i64>,
}

impl Table {
    /// Combines the rows of a table with its chunks, if it has any.
    pub(super) fn new(span: &Span, chunks: &[storage::Chunks]) -> Self {
        let chunks = chunks.iter().find(|chunks| chunks.table_name == span.table);
        Self {
            table: span.table,
            rows: span.rows,
            rows_estimated: span.is_estimate,
            oldest: span.oldest_us.map(rfc3339),
            newest: span.newest_us.map(rfc3339),
            size_bytes: chunks.map(|chunks| chunks.size_bytes),
            chunks: chunks.map(|chunks| chunks.chunks),
            compressed_chunks: chunks.map(|chunks| chunks.compressed),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Compression {
    pub(super) available: bool,
    pub(super) reason: Option<&'static str>,
    pub(super) tables: Vec<storage::Compression>,
}

impl Compression {
    /// Creates the report of compression. `found` is `None` on an edition without compression.
    pub(super) fn new(found: Option<Vec<storage::Compression>>) -> Self {
        Self {
            available: found.is_some(),
            reason: found
                .is_none()
                .then_some("TimescaleDB's Apache edition has no compression; the Community edition has"),
            tables: found.unwrap_or_default(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Rollup {
    pub(super) timeframe: &'static str,
    #[serde(rename = "made_until")]
    pub(super) materialized_until: Option<String>,
    pub(super) lag_seconds: Option<i64>,
    /// `true` if a whole bucket before the newest minute is not materialized.
    #[serde(skip)]
    pub(super) is_behind: bool,
}

impl Rollup {
    /// Creates the report of a timeframe. Its lag is the market time from the watermark to the end of the newest
    /// minute.
    pub(super) fn new(timeframe: Timeframe, watermark_us: Option<i64>, newest_minute_us: Option<i64>) -> Self {
        let lag = |watermark_us: i64| {
            let newest_end_us = newest_minute_us? + Timeframe::M1.micros();
            Some((newest_end_us - watermark_us).max(0) / 1_000_000)
        };
        let lag_seconds = watermark_us.and_then(lag);
        Self {
            timeframe: timeframe.label(),
            materialized_until: watermark_us.map(rfc3339),
            lag_seconds,
            is_behind: lag_seconds.is_some_and(|lag| lag >= timeframe.seconds()),
        }
    }
}

/// Comparison of the history with its sources in the background.
#[derive(Debug, Default, Serialize)]
pub(super) struct Verification {
    /// Number of days compared.
    pub(super) days: usize,
    /// Time of the oldest comparison.
    pub(super) oldest: Option<String>,
    /// Number of candles that differed.
    pub(super) differences: i64,
    /// Number of minutes whose trades were missing.
    pub(super) missing: i64,
}

impl From<Vec<VerifiedDay>> for Verification {
    fn from(days: Vec<VerifiedDay>) -> Self {
        let oldest = days.iter().map(|day| day.checked.timestamp_micros()).min();
        Self {
            days: days.len(),
            oldest: oldest.map(rfc3339),
            differences: days.iter().map(|day| day.differences).sum(),
            missing: days.iter().map(|day| day.missing).sum(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Job {
    pub(super) id: i32,
    pub(super) kind: &'static str,
    pub(super) table: String,
    pub(super) every_seconds: u64,
    pub(super) config: serde_json::Value,
    /// Number of runs by TimescaleDB's scheduler.
    pub(super) runs: i64,
    /// Number of these that failed.
    pub(super) failures: i64,
    /// Time of the last failure.
    pub(super) last_failure: Option<String>,
    /// Error of the last failure.
    pub(super) last_error: Option<String>,
}

impl Job {
    pub(super) fn new(job: policies::Job, runs: Option<&policies::Runs>) -> Self {
        let failed = runs.and_then(|runs| runs.failed);
        Self {
            id: job.id,
            kind: job.kind.label(),
            table: job.table,
            every_seconds: job.every.as_secs(),
            config: job.config,
            runs: runs.map_or(0, |runs| runs.runs),
            failures: runs.map_or(0, |runs| runs.failures),
            last_failure: failed.map(|failed| rfc3339(failed.timestamp_micros())),
            last_error: runs.and_then(|runs| runs.error.clone()),
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Hot {
    /// Version of the functions, or why they can't be used.
    pub(super) functions: String,
    pub(super) partitions: Option<u16>,
    /// Database that Redis belongs to.
    pub(super) database: Option<String>,
    pub(super) streams: Vec<Stream>,
    pub(super) hot_writers: Vec<Replica>,
    pub(super) leases: Leases,
    pub(super) open_candles: Vec<OpenCandles>,
    pub(super) warm_syncers: Vec<Replica>,
    pub(super) warm_syncer_leases: Leases,
    pub(super) lost: Vec<LostEntries>,
    /// Streams that no worker reads.
    pub(super) unread: Vec<UnreadStream>,
    pub(super) backups: Vec<Backup>,
}

/// Owner of each partition.
pub(super) type Leases = BTreeMap<u16, Option<String>>;

#[derive(Debug, Serialize)]
pub(super) struct Stream {
    pub(super) stream: String,
    pub(super) entries: u64,
    pub(super) groups: Vec<Group>,
}

#[derive(Debug, Serialize)]
pub(super) struct Group {
    pub(super) group: String,
    pub(super) lag: Option<u64>,
    pub(super) pending: u64,
}

/// Entries that were removed before a group had read or finished them.
#[derive(Debug, Serialize)]
pub(super) struct LostEntries {
    pub(super) stream: String,
    pub(super) group: String,
    pub(super) entries: u64,
    pub(super) last: String,
}

impl From<lost::Record> for LostEntries {
    fn from(record: lost::Record) -> Self {
        Self {
            stream: record.stream,
            group: record.group,
            entries: record.entries,
            last: rfc3339(ms_to_us(record.last_ms)),
        }
    }
}

/// A stream of a partition that does not exist, or with a misspelt name.
#[derive(Debug, Serialize)]
pub(super) struct UnreadStream {
    pub(super) key: String,
    pub(super) entries: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Replica {
    pub(super) instance: String,
    pub(super) seen_seconds_ago: u64,
}

/// Open candles of a hot-writer that has written some in the last seconds.
#[derive(Debug, Serialize)]
pub(super) struct OpenCandles {
    pub(super) instance: String,
    /// Maximum age of a 1-minute candle at its publication, within a second.
    pub(super) max_age_ms: u64,
    /// Share of the time of Redis that they cost.
    pub(super) write_share: f64,
    /// Number of candles that wait to be written.
    pub(super) waiting: u64,
}

impl From<(String, WriteLoad)> for OpenCandles {
    fn from((instance, load): (String, WriteLoad)) -> Self {
        Self {
            instance,
            max_age_ms: load.max_age_ms,
            write_share: load.share,
            waiting: load.waiting,
        }
    }
}

#[derive(Debug, Serialize)]
pub(super) struct Backup {
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) started: String,
    pub(super) age_seconds: i64,
    pub(super) took_seconds: f64,
    pub(super) size_bytes: u64,
}

impl Backup {
    #[allow(clippy::cast_precision_loss)] // a duration to read
    pub(super) fn new(backup: BackupAnnouncement, now_us: i64) -> Self {
        Self {
            kind: backup.kind,
            name: backup.name,
            started: rfc3339(backup.started_us),
            age_seconds: (now_us - backup.started_us) / 1_000_000,
            took_seconds: backup.took_ms as f64 / 1e3,
            size_bytes: backup.size_bytes,
        }
    }
}

/// Returns the program that runs the policies.
pub(super) fn scheduler(server: &Server) -> &'static str {
    match (server.edition, server.has_scheduler) {
        (Edition::Community, true) => "timescaledb",
        _ => "aggregator-admin run",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_of_a_timeframe_is_counted_to_the_end_of_the_newest_minute() {
        let minute_us = Timeframe::M1.micros();
        let rollup = |watermark_us, newest_us| Rollup::new(Timeframe::M5, watermark_us, newest_us);
        let lag = |watermark_us, newest_us| rollup(watermark_us, newest_us).lag_seconds;
        assert_eq!(lag(Some(5 * minute_us), Some(9 * minute_us)), Some(300));
        // A continuous aggregate may have materialized a bucket that is not over.
        assert_eq!(lag(Some(15 * minute_us), Some(9 * minute_us)), Some(0));
        assert_eq!(lag(Some(5 * minute_us), None), None);
        assert_eq!(lag(None, Some(9 * minute_us)), None);
        let is_behind = |newest_us| rollup(Some(5 * minute_us), Some(newest_us)).is_behind;
        assert_eq!([8, 9].map(|minute| is_behind(minute * minute_us)), [false, true]);
    }

    #[test]
    fn an_edition_without_compression_says_so() {
        let without = Compression::new(None);
        assert!(!without.available && without.reason.is_some());
        let with = Compression::new(Some(Vec::new()));
        assert!(with.available && with.reason.is_none());
    }
}
