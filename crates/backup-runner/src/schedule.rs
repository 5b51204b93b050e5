//! When the next backup is due.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Shortest and longest pause before a failed attempt is repeated.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// How long until something is to be done that was last done at `last` and is to be done `every` so often; zero when it is
/// due. A time in the future, as a clock that was put right leaves it, counts as now.
pub(crate) fn until_due(last: Option<DateTime<Utc>>, every: Duration, now: DateTime<Utc>) -> Duration {
    let Some(last) = last else { return Duration::ZERO };
    let elapsed = (now - last).to_std().unwrap_or(Duration::ZERO);
    every.saturating_sub(elapsed)
}

/// The pause after `failures` failures in a row, never longer than the schedule's own.
pub(crate) fn retry_pause(failures: u32, every: Duration) -> Duration {
    let (shortest, longest) = RETRY;
    let doubled = shortest.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(longest).min(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_one_is_due_at_once_and_so_is_one_that_was_missed() {
        let now = at("2026-11-23T12:00:00Z");
        assert_eq!(until_due(None, 6 * HOUR, now), Duration::ZERO);
        assert_eq!(
            until_due(Some(at("2026-11-23T05:00:00Z")), 6 * HOUR, now),
            Duration::ZERO
        );
        assert_eq!(until_due(Some(at("2026-11-23T10:00:00Z")), 6 * HOUR, now), 4 * HOUR);
        assert_eq!(until_due(Some(at("2027-01-01T00:00:00Z")), 6 * HOUR, now), 6 * HOUR);
    }

    #[test]
    fn failures_are_repeated_ever_more_slowly() {
        let pauses: Vec<u64> = [1, 2, 3, 7, 40]
            .map(|failures| retry_pause(failures, HOUR).as_secs())
            .to_vec();
        assert_eq!(pauses, [5, 10, 20, 300, 300]);
        assert_eq!(retry_pause(9, Duration::from_secs(30)), Duration::from_secs(30));
    }
}
