//! Length of the pieces in which the history is read: a statement should take less than a second, because it keeps
//! other clients waiting, on the embedded server all of them. Pure.

use std::time::Duration;

use storage_core::domain::timeframe::Timeframe;

/// Duration of a statement below which the next piece is twice as long.
const SHORT: Duration = Duration::from_millis(250);
/// Duration of a statement above which the next piece is half as long.
const LONG: Duration = Duration::from_millis(1_000);
/// Longest piece: planning takes time per chunk, and what follows a difference is done per piece.
const LONGEST: Duration = Duration::from_secs(64 * 86_400);

/// Length of the next piece, in multiples of a unit.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    unit: Timeframe,
    units: i64,
}

impl Pace {
    pub(crate) fn new(unit: Timeframe, units: i64) -> Self {
        Self { unit, units }
    }

    /// Returns the end of the piece that starts at `from_us`.
    pub(crate) fn end(&self, from_us: i64) -> i64 {
        self.unit
            .bucket_start_us(from_us)
            .saturating_add(self.units.saturating_mul(self.unit.micros()))
    }

    /// Adapts the length to the duration of the last piece.
    pub(crate) fn took(&mut self, duration: Duration) {
        let longest = i64::try_from(LONGEST.as_micros()).unwrap_or(i64::MAX) / self.unit.micros();
        if duration < SHORT {
            self.units = (self.units * 2).min(longest);
        } else if duration > LONG {
            self.units = (self.units / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_a_piece_follows_the_duration_of_the_last_one() {
        let day_us = Timeframe::D1.micros();
        let mut pace = Pace::new(Timeframe::D1, 1);
        assert_eq!(pace.end(day_us + 5), 2 * day_us, "pieces end on whole units");
        pace.took(Duration::from_millis(10));
        assert_eq!(pace.end(0), 2 * day_us);
        pace.took(Duration::from_millis(500));
        assert_eq!(pace.end(0), 2 * day_us);
        for _ in 0..3 {
            pace.took(Duration::from_secs(5));
        }
        assert_eq!(pace.end(0), day_us);
        for _ in 0..20 {
            pace.took(Duration::ZERO);
        }
        assert_eq!(pace.end(0), 64 * day_us);
    }
}
