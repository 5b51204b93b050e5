//! The metrics of backup-runner.

use storage_core::telemetry::metrics::LONG_SECONDS;

use crate::manifest::{Kind, Manifest};

storage_core::define_metrics! {
    prefix "backup_runner";

    /// Total number of attempted backups, by kind and result.
    Counter BACKUPS = "backups_total", kind = Kind::NAMES, result = &["ok", "failed"];
    /// Unix time at which the newest backup of each kind was finished; 0 without a backup.
    Gauge LAST_SUCCESS = "last_success_timestamp_seconds", kind = Kind::NAMES;
    /// Size of the newest backup of each kind in bytes.
    Gauge LAST_SIZE = "last_size_bytes", kind = Kind::NAMES;
    /// Number of complete backups in the backup folder, by kind.
    Gauge KEPT = "kept_backups", kind = Kind::NAMES;
    /// Duration of a backup in seconds, by kind.
    Histogram(LONG_SECONDS) DURATION = "backup_seconds", kind = Kind::NAMES;
    /// Total number of checks that found a damaged backup, by kind.
    Counter VERIFY_FAILURES = "verify_failures_total", kind = Kind::NAMES;
    /// Unix time at which a check last found all backups intact.
    Gauge LAST_VERIFIED = "last_verified_timestamp_seconds";
    /// Total number of backups and leftovers removed by retention, by kind.
    Counter PRUNED = "pruned_total", kind = Kind::NAMES;
    /// Total number of backups whose announcement on stream:backups failed.
    Counter UNANNOUNCED = "unannounced_total";
    /// WAL that is not archived yet in bytes; NaN while it is unknown.
    Gauge WAL_LAG = "wal_lag_bytes";
    /// Total number of times that WAL archiving failed and was restarted.
    Counter WAL_FAILURES = "wal_failures_total";
}

/// Sets the gauges of a kind to its complete backups, given oldest first.
// Sizes and times stay far below 2^53.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn show(kind: Kind, backups: &[Manifest]) {
    KEPT.set(kind.as_str(), backups.len() as f64);
    if let Some(newest) = backups.last() {
        LAST_SUCCESS.set(kind.as_str(), newest.finished.timestamp() as f64);
        LAST_SIZE.set(kind.as_str(), newest.size_bytes() as f64);
    }
}
