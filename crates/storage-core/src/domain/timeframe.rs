//! [`Timeframe`]: the lengths of candles.

use std::fmt;
use std::str::FromStr;

/// Length of a candle. Buckets are half-open, `[start, end)`, aligned to UTC and labelled by their start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timeframe {
    /// One minute.
    M1,
    /// Five minutes.
    M5,
    /// Fifteen minutes.
    M15,
    /// One hour.
    H1,
    /// Four hours.
    H4,
    /// One day.
    D1,
}

/// A text that is not a timeframe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a timeframe; use 1m, 5m, 15m, 1h, 4h or 1d")]
pub struct InvalidTimeframe(String);

impl Timeframe {
    /// All timeframes, smallest first; each divides the next.
    pub const ALL: [Self; 6] = [Self::M1, Self::M5, Self::M15, Self::H1, Self::H4, Self::D1];

    /// Labels of [`ALL`](Self::ALL).
    pub const LABELS: [&str; Self::ALL.len()] = ["1m", "5m", "15m", "1h", "4h", "1d"];

    /// Returns the name in keys, channels and tables: `1m` … `1d`.
    pub const fn label(self) -> &'static str {
        Self::LABELS[self as usize]
    }

    /// Returns the table or continuous aggregate of its candles: `candles_1m` … `candles_1d`.
    pub const fn table(self) -> &'static str {
        match self {
            Self::M1 => "candles_1m",
            Self::M5 => "candles_5m",
            Self::M15 => "candles_15m",
            Self::H1 => "candles_1h",
            Self::H4 => "candles_4h",
            Self::D1 => "candles_1d",
        }
    }

    /// Returns the next smaller timeframe, from which its candles are computed; `None` for [`M1`](Self::M1), computed
    /// from ticks.
    pub fn source(self) -> Option<Self> {
        Self::ALL.into_iter().rev().find(|smaller| *smaller < self)
    }

    /// Returns the length in seconds.
    pub const fn seconds(self) -> i64 {
        match self {
            Self::M1 => 60,
            Self::M5 => 300,
            Self::M15 => 900,
            Self::H1 => 3_600,
            Self::H4 => 14_400,
            Self::D1 => 86_400,
        }
    }

    /// Returns the length in µs.
    pub const fn micros(self) -> i64 {
        self.seconds() * 1_000_000
    }

    /// Returns the start of the bucket that contains `ts_us`, in µs since 1970.
    pub const fn bucket_start_us(self, ts_us: i64) -> i64 {
        ts_us - ts_us.rem_euclid(self.micros())
    }
}

impl FromStr for Timeframe {
    type Err = InvalidTimeframe;

    fn from_str(text: &str) -> Result<Self, InvalidTimeframe> {
        Self::ALL
            .into_iter()
            .find(|tf| tf.label() == text)
            .ok_or_else(|| InvalidTimeframe(text.to_owned()))
    }
}

impl fmt::Display for Timeframe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_timeframe_divides_the_next_and_parses_back() {
        for pair in Timeframe::ALL.windows(2) {
            assert_eq!(pair[1].seconds() % pair[0].seconds(), 0);
        }
        assert_eq!(Timeframe::M1.source(), None);
        assert_eq!(Timeframe::H4.source(), Some(Timeframe::H1));
        for tf in Timeframe::ALL {
            assert_eq!(tf.label().parse(), Ok(tf));
        }
        assert!("2m".parse::<Timeframe>().is_err());
    }

    #[test]
    fn a_bucket_is_half_open() {
        let start = 1_700_000_040_000_000;
        assert_eq!(Timeframe::M1.bucket_start_us(start), start);
        assert_eq!(Timeframe::M1.bucket_start_us(start + 59_999_999), start);
        assert_eq!(Timeframe::M1.bucket_start_us(start + 60_000_000), start + 60_000_000);
    }
}
