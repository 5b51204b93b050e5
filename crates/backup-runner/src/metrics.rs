//! The metrics of backup-runner.

use storage_core::telemetry::metrics::LONG_SECONDS;

use crate::manifest::{Kind, Manifest};

storage_core::define_metrics! {
    prefix "backup_runner";

    /// Backups that were tried, by kind and result.
    Counter BACKUPS = "backups_total", kind = Kind::NAMES, result = &["ok", "failed"];
    /// When the newest backup of each kind was finished, in seconds since 1970; 0 where there is none.
    Gauge LAST_SUCCESS = "last_success_timestamp_seconds", kind = Kind::NAMES;
    /// Size of the newest backup of each kind.
    Gauge LAST_SIZE = "last_size_bytes", kind = Kind::NAMES;
    /// Backups that are there, by kind.
    Gauge KEPT = "kept_backups", kind = Kind::NAMES;
    /// Time that a backup took.
    Histogram(LONG_SECONDS) DURATION = "backup_seconds", kind = Kind::NAMES;
    /// Checks of a backup that found it damaged, by kind.
    Counter VERIFY_FAILURES = "verify_failures_total", kind = Kind::NAMES;
    /// When all backups were last found whole, in seconds since 1970.
    Gauge LAST_VERIFIED = "last_verified_timestamp_seconds";
    /// Backups that were removed because newer ones are enough, by kind.
    Counter PRUNED = "pruned_total", kind = Kind::NAMES;
    /// Announcements on stream:backups that Redis did not take.
    Counter UNANNOUNCED = "unannounced_total";
    /// WAL that the server wrote and that is not in the archive yet; NaN while that is not known.
    Gauge WAL_LAG = "wal_lag_bytes";
    /// Times that archiving WAL stopped and was begun again.
    Counter WAL_FAILURES = "wal_failures_total";
}

/// Shows what is there of a kind, oldest first.
// Sizes and times stay far below 2^53.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn show(kind: Kind, backups: &[Manifest]) {
    KEPT.set(kind.as_str(), backups.len() as f64);
    if let Some(newest) = backups.last() {
        LAST_SUCCESS.set(kind.as_str(), newest.finished.timestamp() as f64);
        LAST_SIZE.set(kind.as_str(), newest.size_bytes() as f64);
    }
}
