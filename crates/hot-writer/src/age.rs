//! Measures the age of messages at their publication.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use storage_core::domain::stream_id::Revision;
use storage_core::domain::time::duration_ms;
use storage_core::domain::timeframe::Timeframe;

use crate::metrics;

/// Ages of the messages of this replica.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ages(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// The clock of Redis minus the clock of this machine, in ms.
    clock_offset_ms: AtomicI64,
    /// Maximum age of a 1-minute candle since the last report, in ms.
    max_ms: AtomicU64,
}

impl Ages {
    /// Sets the clock of Redis to `now_ms`, in ms since 1970, as it was half of `round_trip` ago.
    pub(crate) fn set_clock(&self, now_ms: u64, round_trip: Duration) {
        let now_ms = now_ms + duration_ms(round_trip / 2);
        let offset_ms = now_ms.cast_signed() - local_ms();
        self.0.clock_offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    /// Records the publication of a latest tick.
    pub(crate) fn record_tick(&self, revision: Revision) {
        metrics::TICK_AGE.record(seconds(self.age_ms(revision)));
    }

    /// Records the publication of an open candle whose first unpublished tick was read at `since`.
    pub(crate) fn record_candle(&self, timeframe: Timeframe, revision: Revision, since: Instant) {
        let age_ms = self.age_ms(revision).max(duration_ms(since.elapsed()));
        metrics::CANDLE_AGE.record(timeframe.label(), seconds(age_ms));
        if timeframe == Timeframe::M1 {
            self.0.max_ms.fetch_max(age_ms, Ordering::Relaxed);
        }
    }

    /// Returns the maximum age of a 1-minute candle since the last call, in ms.
    pub(crate) fn take_max_ms(&self) -> u64 {
        self.0.max_ms.swap(0, Ordering::Relaxed)
    }

    fn age_ms(&self, revision: Revision) -> u64 {
        let now_ms = local_ms() + self.0.clock_offset_ms.load(Ordering::Relaxed);
        now_ms
            .saturating_sub(revision.stream_id().ms.cast_signed())
            .max(0)
            .cast_unsigned()
    }
}

fn local_ms() -> i64 {
    let elapsed = UNIX_EPOCH.elapsed().unwrap_or_default();
    i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX)
}

fn seconds(ms: u64) -> f64 {
    f64::from(u32::try_from(ms).unwrap_or(u32::MAX)) / 1_000.0
}
