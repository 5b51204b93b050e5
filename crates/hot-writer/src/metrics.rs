//! Metrics of hot-writer.

use storage_core::domain::rejection::Rejection;
use storage_core::telemetry::metrics::{BATCH_SIZES, SECONDS};

storage_core::define_metrics! {
    prefix "hot_writer";

    /// Tick entries read.
    Counter TICKS_READ = "ticks_read_total";
    /// Ticks folded into candles.
    Counter TICKS_FOLDED = "ticks_folded_total";
    /// Ticks left out because their trade ID was there before.
    Counter TICKS_DUPLICATE = "ticks_duplicate_total";
    /// Ticks whose quantity was rounded to a lot.
    Counter TICKS_ROUNDED = "ticks_rounded_total";
    /// Ticks too late for their minute, which is computed again from the history instead.
    Counter TICKS_REPAIRED = "ticks_repaired_total";
    /// Entries that can't be used, by reason.
    Counter DEAD_LETTERS = "dead_letters_total", reason = &Rejection::LABELS;
    /// 1-minute candles closed.
    Counter CANDLES_CLOSED = "candles_closed_total";
    /// Closed 1-minute candles sent again with a late tick in them.
    Counter CANDLES_AMENDED = "candles_amended_total";
    /// Candles whose beginning was lost with the hot state, so that it was asked for from the history.
    Counter CANDLES_INCOMPLETE = "incomplete_candles_total";
    /// Candles whose beginning was restored from the history.
    Counter CANDLES_RESTORED = "restored_candles_total";
    /// Candles that are not shown because their beginning has not been restored yet, by partition.
    Gauge CANDLES_AWAITED = "awaited_candles_count", partition = &[];
    /// Signals made active.
    Counter SIGNALS_ACTIVATED = "signals_activated_total";
    /// Signals that had expired before they were read.
    Counter SIGNALS_EXPIRED = "signals_expired_total";
    /// Entries that were removed from a stream before this worker had read or finished them.
    Counter LOST_ENTRIES = "lost_entries_total";
    /// Entries trimmed from streams.
    Counter ENTRIES_TRIMMED = "entries_trimmed_total";
    /// Times that a partition was taken up: from another copy, or again after a failure.
    Counter PARTITION_STARTS = "partition_starts_total";
    /// Partitions that this copy serves.
    Gauge PARTITIONS = "partitions_count";
    /// Symbols with state in memory, by partition.
    Gauge SYMBOLS = "symbols_count", partition = &[];
    /// Tick entries not read yet, by partition.
    Gauge LAG = "lag_entries", partition = &[];
    /// Time from having read a batch to having written all that comes of it.
    Histogram(SECONDS) BATCH_SECONDS = "batch_seconds";
    /// Entries in a batch.
    Histogram(BATCH_SIZES) BATCH_ENTRIES = "batch_entries";
}

/// What became of the ticks of a read; reported once, as a metric costs more than a fold.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) folded: u64,
    pub(crate) duplicate: u64,
    pub(crate) rounded: u64,
    pub(crate) repaired: u64,
}

impl Counts {
    /// Adds them to the metrics, with the number of entries that were read.
    pub(crate) fn report(&self, read: usize) {
        TICKS_READ.increment(u64::try_from(read).unwrap_or(u64::MAX));
        TICKS_FOLDED.increment(self.folded);
        TICKS_DUPLICATE.increment(self.duplicate);
        TICKS_ROUNDED.increment(self.rounded);
        TICKS_REPAIRED.increment(self.repaired);
    }
}
