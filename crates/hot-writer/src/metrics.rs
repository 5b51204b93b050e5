//! Metrics of hot-writer.

use storage_core::domain::rejection::Rejection;
use storage_core::domain::timeframe::Timeframe;
use storage_core::telemetry::metrics::{BATCH_SIZES, SECONDS};

storage_core::define_metrics! {
    prefix "hot_writer";

    /// Total number of tick entries read.
    Counter TICKS_READ = "ticks_read_total";
    /// Total number of ticks folded into candles.
    Counter TICKS_FOLDED = "ticks_folded_total";
    /// Total number of ticks dropped as duplicates of a trade ID.
    Counter TICKS_DUPLICATE = "ticks_duplicate_total";
    /// Total number of ticks whose quantity was rounded to whole lots.
    Counter TICKS_ROUNDED = "ticks_rounded_total";
    /// Total number of ticks with a side that can't be interpreted, which were counted without a side.
    Counter TICKS_UNKNOWN_SIDE = "ticks_unknown_side_total";
    /// Total number of ticks that came too late to amend their minute, so that its repair was requested.
    Counter TICKS_REPAIRED = "ticks_repaired_total";
    /// Total number of corrections and busts read.
    Counter AMENDMENTS = "amendments_total";
    /// Total number of entries that became dead letters, by reason.
    Counter DEAD_LETTERS = "dead_letters_total", reason = &Rejection::LABELS;
    /// Total number of 1-minute candles closed.
    Counter CANDLES_CLOSED = "candles_closed_total";
    /// Total number of closed 1-minute candles amended by a late tick.
    Counter CANDLES_AMENDED = "candles_amended_total";
    /// Total number of candles whose first ticks Redis may have lost, so that they were requested from the history.
    Counter CANDLES_INCOMPLETE = "incomplete_candles_total";
    /// Total number of incomplete candles restored from the history.
    Counter CANDLES_RESTORED = "restored_candles_total";
    /// Number of incomplete candles that wait for their first ticks from the history, by partition.
    Gauge CANDLES_AWAITED = "awaited_candles_count", partition = &[];
    /// Total number of signals activated.
    Counter SIGNALS_ACTIVATED = "signals_activated_total";
    /// Total number of signals that had expired before they were read.
    Counter SIGNALS_EXPIRED = "signals_expired_total";
    /// Total number of entries that were removed from a stream before this worker had read or finished them.
    Counter LOST_ENTRIES = "lost_entries_total";
    /// Total number of entries trimmed from streams.
    Counter ENTRIES_TRIMMED = "entries_trimmed_total";
    /// Total number of times that a partition was acquired, or resumed after a failure.
    Counter PARTITION_STARTS = "partition_starts_total";
    /// Number of partitions that this replica serves.
    Gauge PARTITIONS = "partitions_count";
    /// Number of symbols with state in memory, by partition.
    Gauge SYMBOLS = "symbols_count", partition = &[];
    /// Number of tick entries not read yet, by partition.
    Gauge LAG = "lag_entries", partition = &[];
    /// Age of a latest tick at its publication, since Redis accepted it, in seconds.
    Histogram(SECONDS) TICK_AGE = "tick_age_seconds";
    /// Time from the first unpublished tick of an open candle to its publication, in seconds, by timeframe.
    Histogram(SECONDS) CANDLE_AGE = "candle_age_seconds", timeframe = &Timeframe::LABELS;
    /// Number of open candles that wait to be written.
    Gauge WAITING_CANDLES = "waiting_candles_count";
    /// Share of the time of Redis that the open candles of this replica cost.
    Gauge WRITE_SHARE = "write_share_ratio";
    /// Time from reading the first entry of a batch until all its effects are written, in seconds.
    Histogram(SECONDS) BATCH_SECONDS = "batch_seconds";
    /// Number of entries in a batch.
    Histogram(BATCH_SIZES) BATCH_ENTRIES = "batch_entries";
}

/// Outcomes of folding the ticks of one read. They are reported together because updating a metric costs more than a
/// fold.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) folded: u64,
    pub(crate) duplicate: u64,
    pub(crate) rounded: u64,
    pub(crate) unknown_side: u64,
    pub(crate) repaired: u64,
    pub(crate) amendments: u64,
}

impl Counts {
    /// Adds the counts to the metrics.
    pub(crate) fn report(&self, read: usize) {
        TICKS_READ.increment(u64::try_from(read).unwrap_or(u64::MAX));
        TICKS_FOLDED.increment(self.folded);
        TICKS_DUPLICATE.increment(self.duplicate);
        TICKS_ROUNDED.increment(self.rounded);
        TICKS_UNKNOWN_SIDE.increment(self.unknown_side);
        TICKS_REPAIRED.increment(self.repaired);
        AMENDMENTS.increment(self.amendments);
    }
}
