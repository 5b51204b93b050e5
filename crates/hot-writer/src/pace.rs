//! When to write: at once when there is little to do, and in larger batches the more there is.

use std::time::{Duration, Instant};

/// After a batch, nothing is written for so many times as long as writing it took. So what comes after a pause is written at once, and
/// writing costs at most a quarter of the time, however many symbols there are.
const PAUSE: u32 = 3;
/// The same while there is more to read: the view is not of the present anyway, and reading must catch up.
const PAUSE_BEHIND: u32 = 9;
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(10);
/// While there is more to read, the first entry of a batch is at least so old.
const LEAST_BEHIND: Duration = Duration::from_millis(500);

/// The pace of one writer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    paused_until: Instant,
}

impl Pace {
    /// Without a pause before the first batch.
    pub(crate) fn new(now: Instant) -> Self {
        Self { paused_until: now }
    }

    /// When the batch whose first entry was read at `first_read` is due, there being more to read or not.
    pub(crate) fn due(&self, first_read: Instant, is_behind: bool) -> Instant {
        if is_behind {
            self.paused_until.max(first_read + LEAST_BEHIND)
        } else {
            self.paused_until
        }
    }

    /// Notes that a batch was written from `begun` to `now`, and whether there is more to read.
    pub(crate) fn wrote(&mut self, begun: Instant, now: Instant, is_behind: bool) {
        let times = if is_behind { PAUSE_BEHIND } else { PAUSE };
        self.paused_until = now + (now.saturating_duration_since(begun) * times).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_follows_the_work_and_has_an_end() {
        let begun = Instant::now();
        let mut pace = Pace::new(begun);
        assert_eq!(pace.due(begun, false), begun);
        assert_eq!(pace.due(begun, true), begun + LEAST_BEHIND);
        for (work_ms, is_behind, pause_ms) in [(0, false, 0), (2, false, 6), (200, true, 1_800), (5_000, true, 10_000)]
        {
            let now = begun + Duration::from_millis(work_ms);
            pace.wrote(begun, now, is_behind);
            assert_eq!(pace.due(begun, false) - now, Duration::from_millis(pause_ms));
        }
    }
}
