//! When to write: at once when there is little to do, and in larger batches the more there is.

use std::time::{Duration, Instant};

/// A batch is written when so many times as long has passed as the one before took to be written. So writing costs at most a
/// quarter of the time, however many symbols there are, and what comes after a pause is written at once.
const PAUSE: u32 = 3;
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(2);

/// The pace of one writer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    due: Instant,
}

impl Pace {
    /// Due at once.
    pub(crate) fn new(now: Instant) -> Self {
        Self { due: now }
    }

    /// When the next batch is due.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Notes that a batch was written from `begun` to `now`.
    pub(crate) fn wrote(&mut self, begun: Instant, now: Instant) {
        self.due = now + (now.saturating_duration_since(begun) * PAUSE).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_the_work_and_has_an_end() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        assert_eq!(pace.due(), begun);
        for (work_ms, pause_ms) in [(0, 0), (2, 6), (200, 600), (5_000, 2_000)] {
            let now = begun + Duration::from_millis(work_ms);
            pace.wrote(begun, now);
            assert_eq!(pace.due() - now, Duration::from_millis(pause_ms));
        }
    }
}
