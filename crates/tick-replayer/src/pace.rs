//! When a tick is due: the recording's own pace, a multiple of it, or as fast as it goes.

use std::str::FromStr;
use std::time::Duration;

/// How fast event time passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Speed {
    /// So many times the recorded pace.
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
            _ => Err("must be max, or how many times faster than recorded: 0.001 to 1000000000"),
        }
    }
}

/// A longer step between two ticks is a gap in the recording, or a wrong clock: nobody waits for it.
const LONGEST_STEP_US: i64 = 7 * 24 * 3_600 * 1_000_000;

/// Turns event times into times since the start of the replay. Reads no clock.
#[derive(Debug)]
pub(crate) struct Pace {
    speed: Speed,
    latest_us: Option<i64>,
    passed_us: i64,
}

impl Pace {
    /// A pace at whose start the first tick is due.
    pub(crate) fn new(speed: Speed) -> Self {
        Self {
            speed,
            latest_us: None,
            passed_us: 0,
        }
    }

    /// How long after the start the tick at `at_us` is due. A late tick is due at once, and moves nothing.
    pub(crate) fn due(&mut self, at_us: i64) -> Duration {
        let Speed::Times(times) = self.speed else {
            return Duration::ZERO;
        };
        let step_us = at_us.saturating_sub(*self.latest_us.get_or_insert(at_us));
        if step_us.saturating_abs() > LONGEST_STEP_US {
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
    fn flat_out_never_waits() {
        assert_eq!(dues("max", &[0, 5, 1_000_000]), [0.0, 0.0, 0.0]);
    }

    #[test]
    fn a_late_tick_is_due_at_once_and_moves_nothing() {
        assert_eq!(dues("1", &[100, 110, 102, 111]), [0.0, 10.0, 10.0, 11.0]);
    }

    #[test]
    fn a_tick_from_another_year_is_not_waited_for() {
        let year = 365 * 24 * 3_600;
        assert_eq!(dues("1", &[0, 10, 80 * year, 11, 20]), [0.0, 10.0, 10.0, 10.0, 19.0]);
        assert_eq!(dues("1", &[i64::MIN / SECOND_US, i64::MAX / SECOND_US]), [0.0, 0.0]);
    }

    #[test]
    fn what_is_no_speed_is_refused() {
        for text in ["", "0", "-1", "NaN", "inf", "fast", "1e300"] {
            assert!(text.parse::<Speed>().is_err(), "{text}");
        }
    }
}
