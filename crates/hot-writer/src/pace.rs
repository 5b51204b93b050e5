//! Decides when to write and how many commands to send at a time: immediately while there is little to write, otherwise
//! in batches that grow with the amount.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Ratio of pause to work. All partitions write to the same Redis, so the pause is multiplied by their number. A change
/// that comes after the pause is written immediately, and writing takes at most a tenth of the time of Redis for any
/// number of symbols.
const PAUSE_FACTOR: u32 = 9;
/// Maximum pause between two batches.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Maximum number of commands in a pipeline.
pub(crate) const MAX_PIPELINE: usize = 1_000;
/// Number of commands that Redis runs in about a tenth of a millisecond, so that other clients hardly wait.
const SMALL_PIPELINE: usize = 8;
/// Duration from which a batch is written without pauses.
const MAX_PACED_BATCH: Duration = Duration::from_secs(2);
/// Maximum pause within a batch.
const MAX_PAUSE_WITHIN: Duration = Duration::from_millis(100);
/// Limits of the age of its first entry at which a batch is due in a backlog. Between them the age is the pause that
/// the expected work for the changed symbols requires.
const MIN_BACKLOG_AGE: Duration = Duration::from_millis(500);
const MAX_BACKLOG_AGE: Duration = Duration::from_secs(3);
/// Expected work for a symbol, which has seven hashes.
const WORK_PER_SYMBOL: Duration = Duration::from_micros(100);
/// Minimum duration of a backlog; shorter ones are bursts. After a backlog the view is written without delay.
const MIN_BACKLOG: Duration = Duration::from_millis(250);

/// The pace of one partition's writer.
#[derive(Debug)]
pub(crate) struct Pace {
    partitions: u32,
    paused_until: Instant,
    behind_since: Option<Instant>,
    has_caught_up: bool,
    skips_pauses: Arc<AtomicBool>,
}

/// The pace within a batch. There is no pause in a backlog, where the view is old anyway, while the worker shuts down,
/// and in a batch that has taken [`MAX_PACED_BATCH`].
#[derive(Debug)]
pub(crate) struct BatchPace {
    begun: Instant,
    pause: u32,
    is_backlog: bool,
    skips_pauses: Arc<AtomicBool>,
}

impl BatchPace {
    fn is_urgent(&self) -> bool {
        self.is_backlog || self.skips_pauses.load(Ordering::Relaxed) || self.begun.elapsed() >= MAX_PACED_BATCH
    }

    /// Returns the number of commands of the next pipeline.
    pub(crate) fn commands(&self) -> usize {
        if self.is_urgent() { MAX_PIPELINE } else { SMALL_PIPELINE }
    }

    /// Returns the pause before the next pipeline, after `work` since the last pause.
    pub(crate) fn pause(&self, work: Duration) -> Option<Duration> {
        (!self.is_urgent() && !work.is_zero()).then(|| (work * self.pause).min(MAX_PAUSE_WITHIN))
    }
}

impl Pace {
    /// Creates a pace without a pause before the first batch.
    pub(crate) fn new(now: Instant, partitions: u16) -> Self {
        Self {
            partitions: partitions.into(),
            paused_until: now,
            behind_since: None,
            has_caught_up: false,
            skips_pauses: Arc::default(),
        }
    }

    /// Returns `true` if there is a backlog of entries to read.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind_since.is_some()
    }

    /// Records a read that ended at `at`; `is_behind` is `true` if there is more to read.
    pub(crate) fn read(&mut self, at: Instant, is_behind: bool) {
        self.skips_pauses.store(is_behind, Ordering::Relaxed);
        if is_behind {
            self.behind_since.get_or_insert(at);
        } else if let Some(since) = self.behind_since.take() {
            self.has_caught_up = at.saturating_duration_since(since) >= MIN_BACKLOG;
        }
    }

    /// Returns the time at which a batch is due whose first entry was read at `first_read`.
    pub(crate) fn due(&self, first_read: Instant, symbols: usize) -> Instant {
        if self.has_caught_up {
            first_read
        } else if self.is_behind() {
            let symbols = u32::try_from(symbols).unwrap_or(u32::MAX);
            let age = self.pause_after(WORK_PER_SYMBOL.saturating_mul(symbols));
            self.paused_until
                .max(first_read + age.clamp(MIN_BACKLOG_AGE, MAX_BACKLOG_AGE))
        } else {
            self.paused_until
        }
    }

    /// Starts a batch.
    pub(crate) fn begin(&mut self) -> BatchPace {
        BatchPace {
            begun: Instant::now(),
            pause: PAUSE_FACTOR * self.partitions,
            is_backlog: std::mem::take(&mut self.has_caught_up) || self.is_behind(),
            skips_pauses: self.skips_pauses.clone(),
        }
    }

    /// Records a batch that was written at `now`, with `work` since its last pause.
    pub(crate) fn written(&mut self, now: Instant, work: Duration) {
        self.paused_until = now + self.pause_after(work);
    }

    fn pause_after(&self, work: Duration) -> Duration {
        work.saturating_mul(PAUSE_FACTOR * self.partitions).min(MAX_PAUSE)
    }

    /// Ends all pauses, because nothing more will be read.
    pub(crate) fn end(&mut self) {
        self.skips_pauses.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_pause_follows_the_work_up_to_a_maximum() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun, 2);
        assert_eq!(pace.due(begun, 1), begun);
        for (work_ms, pause_ms) in [(0, 0), (2, 36), (200, 3_600), (5_000, 10_000)] {
            pace.written(begun, ms(work_ms));
            assert_eq!(pace.due(begun, 1_000), begun + ms(pause_ms));
        }
        let batch = pace.begin();
        assert_eq!((batch.commands(), batch.pause(ms(1))), (SMALL_PIPELINE, Some(ms(18))));
        pace.end();
        assert_eq!((batch.commands(), batch.pause(ms(1))), (MAX_PIPELINE, None));
    }

    #[test]
    fn a_backlog_is_written_without_pauses_and_its_end_without_delay() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun, 1);
        pace.read(begun, true);
        for (symbols, age) in [(1, MIN_BACKLOG_AGE), (1_000, ms(900)), (usize::MAX, MAX_BACKLOG_AGE)] {
            assert_eq!(pace.due(begun, symbols), begun + age);
        }
        let first = pace.begin();
        pace.read(begun + MIN_BACKLOG, false);
        assert_eq!(first.pause(ms(1)), None);
        pace.written(begun + ms(1_300), ms(400));
        assert_eq!(pace.due(begun + ms(1_000), 1), begun + ms(1_000));
        assert_eq!(pace.begin().pause(ms(1)), None);
        assert_eq!(pace.due(begun + ms(1_000), 1), begun + ms(1_300 + 9 * 400));
        assert_eq!(pace.begin().pause(ms(1)), Some(ms(9)));
    }
}
