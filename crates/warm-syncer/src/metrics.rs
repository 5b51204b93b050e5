//! Metrics of this worker. `kind` says of which streams: `candles` and `ticks` of every partition, `signals`, `dead`.

use storage_core::domain::rejection::Rejection;
use storage_core::telemetry::metrics::{BATCH_SIZES, SECONDS};

use crate::kinds::KINDS;

storage_core::define_metrics! {
    prefix "warm_syncer";

    /// Entries read from the streams, those read again included.
    Counter ENTRIES_READ = "entries_read_total", kind = KINDS;
    /// Rows that were new or replaced an older revision.
    Counter ROWS_WRITTEN = "rows_written_total", kind = KINDS;
    /// Rows that the tables held already, in this revision or a newer one.
    Counter ROWS_UNCHANGED = "rows_unchanged_total", kind = KINDS;
    /// Batches committed and acknowledged.
    Counter BATCHES = "batches_total", kind = KINDS;
    /// Entries in a batch.
    Histogram(BATCH_SIZES) BATCH_ROWS = "batch_rows", kind = KINDS;
    /// Time from having read a batch to having acknowledged it.
    Histogram(SECONDS) BATCH_DURATION = "batch_seconds", kind = KINDS;
    /// Time that a transaction took, its commit included.
    Histogram(SECONDS) COMMIT_DURATION = "commit_seconds", kind = KINDS;
    /// Attempts that failed and were made again.
    Counter RETRIES = "retries_total", store = &["redis", "postgres"];
    /// Entries left out because hot-writer judges them the same way and writes their dead letters.
    Counter SKIPPED = "skipped_entries_total", kind = KINDS, reason = &Rejection::LABELS;
    /// Entries that became dead letters here.
    Counter DEAD_LETTERS = "dead_letters_total", kind = KINDS, reason = &Rejection::LABELS;
    /// Dead letters that the database refuses; only the log tells of them.
    Counter DEAD_LETTERS_LOST = "dead_letters_lost_total";
    /// Minutes sent to stream:repairs, as the table held ticks of them that the candle lacks or the other way round.
    Counter REPAIRS_REQUESTED = "repairs_requested_total";
    /// Ticks put into their stream again, because a Redis that was restored from a backup lacked them.
    Counter TICKS_PUT_BACK = "ticks_put_back_total";
    /// Ranges of time sent to stream:rollups.
    Counter ROLLUPS_REQUESTED = "rollups_requested_total";
    /// Entries that were removed from a stream before this worker had read them.
    Counter LOST_ENTRIES = "lost_entries_total";
    /// Partitions that this copy serves.
    Gauge PARTITIONS = "partitions_count";
    /// Entries that are not written yet, by any copy.
    Gauge LAG = "lag_entries", kind = KINDS;
}
