//! When to write, and how much at once: at once when there is little to do, and in larger batches the more there is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// After some work, a partition writes nothing for so many times as long, times the number of partitions, which all write to the same
/// Redis. So what comes after a pause is written at once, and writing costs at most a tenth of the time of Redis, however many symbols
/// there are.
const PAUSE: u32 = 9;
/// The longest pause between two batches.
const LONGEST: Duration = Duration::from_secs(10);
/// The most commands that go to Redis at once.
pub(crate) const COMMANDS_AT_ONCE: usize = 1_000;
/// As many as Redis runs in about a tenth of a millisecond, so that nobody waits for them.
const A_FEW_COMMANDS: usize = 8;
/// A batch that takes longer is hurried.
const LONGEST_BATCH: Duration = Duration::from_secs(2);
/// The longest pause within a batch.
const LONGEST_WITHIN: Duration = Duration::from_millis(100);
/// While there is more to read, the first entry of a batch is at least so old, and older the more symbols there are to write: as if
/// the pause came before the work, which takes about so long for each, as a symbol has seven hashes.
const LEAST_BEHIND: Duration = Duration::from_millis(500);
const MOST_BEHIND: Duration = Duration::from_secs(3);
const WORK_PER_SYMBOL: Duration = Duration::from_micros(100);
/// Who has been behind for so long, which is more than a burst, shows at once that it has caught up.
const LONG_BEHIND: Duration = Duration::from_millis(250);

/// The pace of one partition's writer.
#[derive(Debug)]
pub(crate) struct Pace {
    partitions: u32,
    paused_until: Instant,
    behind_since: Option<Instant>,
    has_caught_up: bool,
    is_in_a_hurry: Arc<AtomicBool>,
}

/// The pace within a batch. In a hurry are those of a backlog, as the view is not of the present anyway, and those whose writer comes to
/// have one, or ends, and those that take long.
#[derive(Debug)]
pub(crate) struct BatchPace {
    begun: Instant,
    pause: u32,
    is_of_a_backlog: bool,
    is_in_a_hurry: Arc<AtomicBool>,
}

impl BatchPace {
    fn hurries(&self) -> bool {
        self.is_of_a_backlog || self.is_in_a_hurry.load(Ordering::Relaxed) || self.begun.elapsed() >= LONGEST_BATCH
    }

    /// How many commands to send at once.
    pub(crate) fn commands(&self) -> usize {
        if self.hurries() {
            COMMANDS_AT_ONCE
        } else {
            A_FEW_COMMANDS
        }
    }

    /// How long to pause between two parts, after so much work.
    pub(crate) fn pause(&self, work: Duration) -> Option<Duration> {
        (!self.hurries() && !work.is_zero()).then(|| (work * self.pause).min(LONGEST_WITHIN))
    }
}

impl Pace {
    /// Without a pause before the first batch.
    pub(crate) fn new(now: Instant, partitions: u16) -> Self {
        Self {
            partitions: partitions.into(),
            paused_until: now,
            behind_since: None,
            has_caught_up: false,
            is_in_a_hurry: Arc::default(),
        }
    }

    /// Whether there is more to read.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind_since.is_some()
    }

    /// Notes that something was read at `at`, and whether there is more.
    pub(crate) fn read(&mut self, at: Instant, is_behind: bool) {
        self.is_in_a_hurry.store(is_behind, Ordering::Relaxed);
        if is_behind {
            self.behind_since.get_or_insert(at);
        } else if let Some(since) = self.behind_since.take() {
            self.has_caught_up = at.saturating_duration_since(since) >= LONG_BEHIND;
        }
    }

    /// When the batch of so many symbols whose first entry was read at `first_read` is due.
    pub(crate) fn due(&self, first_read: Instant, symbols: usize) -> Instant {
        if self.has_caught_up {
            first_read
        } else if self.is_behind() {
            let symbols = u32::try_from(symbols).unwrap_or(u32::MAX);
            let age = self.pause_after(WORK_PER_SYMBOL.saturating_mul(symbols));
            self.paused_until.max(first_read + age.clamp(LEAST_BEHIND, MOST_BEHIND))
        } else {
            self.paused_until
        }
    }

    /// The pace of a batch that begins now.
    pub(crate) fn begin(&mut self) -> BatchPace {
        BatchPace {
            begun: Instant::now(),
            pause: PAUSE * self.partitions,
            is_of_a_backlog: std::mem::take(&mut self.has_caught_up) || self.is_behind(),
            is_in_a_hurry: self.is_in_a_hurry.clone(),
        }
    }

    /// Notes that a batch was written at `now`, after so much work since its last pause.
    pub(crate) fn wrote(&mut self, now: Instant, work: Duration) {
        self.paused_until = now + self.pause_after(work);
    }

    fn pause_after(&self, work: Duration) -> Duration {
        work.saturating_mul(PAUSE * self.partitions).min(LONGEST)
    }

    /// Notes that nothing more will be read.
    pub(crate) fn end(&mut self) {
        self.is_in_a_hurry.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_pause_follows_the_work_and_has_an_end() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun, 2);
        assert_eq!(pace.due(begun, 1), begun);
        for (work_ms, pause_ms) in [(0, 0), (2, 36), (200, 3_600), (5_000, 10_000)] {
            pace.wrote(begun, ms(work_ms));
            assert_eq!(pace.due(begun, 1_000), begun + ms(pause_ms));
        }
        let batch = pace.begin();
        assert_eq!((batch.commands(), batch.pause(ms(1))), (A_FEW_COMMANDS, Some(ms(18))));
        pace.end();
        assert_eq!((batch.commands(), batch.pause(ms(1))), (COMMANDS_AT_ONCE, None));
    }

    #[test]
    fn who_is_behind_hurries_and_shows_at_once_that_it_has_caught_up() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun, 1);
        pace.read(begun, true);
        for (symbols, age) in [(1, LEAST_BEHIND), (1_000, ms(900)), (usize::MAX, MOST_BEHIND)] {
            assert_eq!(pace.due(begun, symbols), begun + age);
        }
        let first = pace.begin();
        pace.read(begun + LONG_BEHIND, false);
        assert_eq!(first.pause(ms(1)), None);
        pace.wrote(begun + ms(1_300), ms(400));
        assert_eq!(pace.due(begun + ms(1_000), 1), begun + ms(1_000));
        assert_eq!(pace.begin().pause(ms(1)), None);
        assert_eq!(pace.due(begun + ms(1_000), 1), begun + ms(1_300 + 9 * 400));
        assert_eq!(pace.begin().pause(ms(1)), Some(ms(9)));
    }
}
