//! Metrics of warm-syncer. The label `kind` is one of [`crate::labels::ALL`].

use storage_core::domain::rejection::Rejection;
use storage_core::telemetry::metrics::{BATCH_SIZES, SECONDS};

use crate::labels::ALL as KINDS;

storage_core::define_metrics! {
    prefix "warm_syncer";

    /// Total number of entries read from the streams, including those read again.
    Counter ENTRIES_READ = "entries_read_total", kind = KINDS;
    /// Total number of rows that were new or replaced an older revision.
    Counter ROWS_WRITTEN = "rows_written_total", kind = KINDS;
    /// Total number of rows that the tables held already, in the same or a newer revision.
    Counter ROWS_UNCHANGED = "rows_unchanged_total", kind = KINDS;
    /// Total number of batches committed and acknowledged.
    Counter BATCHES = "batches_total", kind = KINDS;
    /// Number of entries in a batch.
    Histogram(BATCH_SIZES) BATCH_ROWS = "batch_rows", kind = KINDS;
    /// Time from reading a batch to acknowledging it, in seconds.
    Histogram(SECONDS) BATCH_DURATION = "batch_seconds", kind = KINDS;
    /// Duration of a transaction including its commit, in seconds.
    Histogram(SECONDS) COMMIT_DURATION = "commit_seconds", kind = KINDS;
    /// Total number of failed attempts that were retried.
    Counter RETRIES = "retries_total", store = &["redis", "postgres"];
    /// Total number of rejected entries whose dead letters hot-writer writes.
    Counter SKIPPED = "skipped_entries_total", kind = KINDS, reason = &Rejection::LABELS;
    /// Total number of entries that became dead letters, without those that hot-writer writes.
    Counter DEAD_LETTERS = "dead_letters_total", kind = KINDS, reason = &Rejection::LABELS;
    /// Total number of dead letters that the database refused; they are only in the log.
    Counter DEAD_LETTERS_LOST = "dead_letters_lost_total";
    /// Total number of minutes whose repair was requested on stream:repairs.
    Counter REPAIRS_REQUESTED = "repairs_requested_total";
    /// Total number of ticks added again to a stream that lacked them after Redis was restored from a backup.
    Counter TICKS_PUT_BACK = "ticks_put_back_total";
    /// Total number of times that the position of a stream was moved back because the database was older than Redis.
    Counter REWINDS = "rewinds_total";
    /// Total number of time ranges announced on stream:rollups.
    Counter ROLLUPS_REQUESTED = "rollups_requested_total";
    /// Total number of entries that were removed from a stream before this worker had read them.
    Counter LOST_ENTRIES = "lost_entries_total";
    /// Number of partitions that this replica serves.
    Gauge PARTITIONS = "partitions_count";
    /// Time for which the current batch of a stream has failed again and again in seconds, else 0.
    Gauge FAILING = "failing_batch_seconds", stream = &[];
    /// Number of entries that no replica has written yet.
    Gauge LAG = "lag_entries", kind = KINDS;
}
