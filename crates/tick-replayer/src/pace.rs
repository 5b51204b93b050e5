//! Determines when a tick is due: at the recorded pace, at a multiple of it, or immediately.

use std::str::FromStr;
use std::time::Duration;

/// Speed of event time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Speed {
    /// Multiple of the recorded pace.
    Times(f64),
    /// Without a pause.
    Max,
}

impl FromStr for Speed {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse() {
            _ if text == "max" => Ok(Self::Max),
            Ok(times) if (0.001..=1e9).contains(&times) => Ok(Self::Times(times)),
            _ => Err("must be max, or a multiple of the recorded pace from 0.001 to 1000000000"),
        }
    }
}

/// Maximum pause between two ticks. A longer one is a gap in the recording or a wrong clock, and is skipped.
const MAX_STEP_US: i64 = 7 * 24 * 3_600 * 1_000_000;

/// Converts event times to times since the start of the replay. Reads no clock.
#[derive(Debug)]
pub(crate) struct Pace {
    speed: Speed,
    latest_us: Option<i64>,
    passed_us: i64,
}

impl Pace {
    /// Creates a pace at whose start the first tick is due.
    pub(crate) fn new(speed: Speed) -> Self {
        Self {
            speed,
            latest_us: None,
            passed_us: 0,
        }
    }

    /// Returns the time from the start until the tick at `at_us` is due. A late tick is due immediately and delays no
    /// other tick.
    pub(crate) fn due(&mut self, at_us: i64) -> Duration {
        let Speed::Times(times) = self.speed else {
            return Duration::ZERO;
        };
        let step_us = at_us.saturating_sub(*self.latest_us.get_or_insert(at_us));
        if step_us.saturating_abs() > MAX_STEP_US {
            self.latest_us = Some(at_us);
        } else if step_us > 0 {
            self.latest_us = Some(at_us);
            self.passed_us += step_us;
        }
        Duration::from_micros(self.passed_us.unsigned_abs()).div_f64(times)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_US: i64 = 1_000_000;

    fn dues(speed: &str, times_s: &[i64]) -> Vec<f64> {
        let mut pace = Pace::new(speed.parse().unwrap());
        times_s.iter().map(|s| pace.due(s * SECOND_US).as_secs_f64()).collect()
    }

    #[test]
    fn ticks_are_due_as_far_apart_as_they_were_recorded() {
        assert_eq!(dues("1", &[100, 100, 101, 110]), [0.0, 0.0, 1.0, 10.0]);
    }

    #[test]
    fn a_multiple_shortens_or_lengthens_every_pause() {
        assert_eq!(dues("5000", &[0, 10_000]), [0.0, 2.0]);
        assert_eq!(dues("0.5", &[0, 10]), [0.0, 20.0]);
    }

    #[test]
    fn the_maximum_speed_never_waits() {
        assert_eq!(dues("max", &[0, 5, 1_000_000]), [0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_late_tick_is_due_immediately_and_delays_no_other_tick() {
        assert_eq!(dues("1", &[100, 110, 102, 111]), [0.0, 10.0, 10.0, 11.0]);
    }

    #[test]
    fn a_gap_of_years_is_skipped() {
        let year = 365 * 24 * 3_600;
        assert_eq!(dues("1", &[0, 10, 80 * year, 11, 20]), [0.0, 10.0, 10.0, 10.0, 19.0]);
        assert_eq!(dues("1", &[i64::MIN / SECOND_US, i64::MAX / SECOND_US]), [0.0, 0.0]);
    }

    #[test]
    fn an_invalid_speed_is_refused() {
        for text in ["", "0", "-1", "NaN", "inf", "fast", "1e300"] {
            assert!(text.parse::<Speed>().is_err(), "{text}");
        }
    }
}
