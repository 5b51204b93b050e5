//! The schedule of backups.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Returns the time until the next backup, zero if it is due. `last` is the start of the last one; a time in the
/// future, as a corrected clock leaves it, counts as now.
pub(crate) fn until_due(last: Option<DateTime<Utc>>, every: Duration, now: DateTime<Utc>) -> Duration {
    let Some(last) = last else { return Duration::ZERO };
    let elapsed = (now - last).to_std().unwrap_or(Duration::ZERO);
    every.saturating_sub(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_backup_and_a_missed_one_are_due_immediately() {
        let now = at("2026-11-23T12:00:00Z");
        assert_eq!(until_due(None, 6 * HOUR, now), Duration::ZERO);
        assert_eq!(
            until_due(Some(at("2026-11-23T05:00:00Z")), 6 * HOUR, now),
            Duration::ZERO
        );
        assert_eq!(until_due(Some(at("2026-11-23T10:00:00Z")), 6 * HOUR, now), 4 * HOUR);
        assert_eq!(until_due(Some(at("2027-01-01T00:00:00Z")), 6 * HOUR, now), 6 * HOUR);
    }
}
