//! Times and durations in µs and ms, their text, and ranges of event time.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use super::timeframe::Timeframe;

/// Upper bound of all conversions: 73,000 years in µs. Three such values can be added without an overflow, and Redis
/// accepts an expiry of as many ms.
const MAX: u64 = i64::MAX.unsigned_abs() / 4;

/// Converts ms to µs; at most 73,000 years.
pub fn ms_to_us(ms: u64) -> i64 {
    ms.saturating_mul(1_000).min(MAX).cast_signed()
}

/// Returns the length of `duration` in µs; at most 73,000 years.
pub fn duration_us(duration: Duration) -> i64 {
    u64::try_from(duration.as_micros())
        .unwrap_or(MAX)
        .min(MAX)
        .cast_signed()
}

/// Returns the length of `duration` in ms; at most 73 million years.
pub fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(MAX).min(MAX)
}

/// Formats a time as RFC 3339 in UTC, with as many decimals as it needs: `2019-10-11T00:00:00Z`.
pub fn rfc3339(ts_us: i64) -> String {
    to_datetime(ts_us).to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

/// Parses an RFC 3339 time and returns it in µs since 1970.
pub fn parse_rfc3339(text: &str) -> Result<i64, chrono::ParseError> {
    DateTime::parse_from_rfc3339(text).map(|time| time.timestamp_micros())
}

/// Converts a time to chrono's type, which diesel requires; a time beyond its range becomes the last one in it.
pub fn to_datetime(ts_us: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(ts_us).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

/// A half-open range `[from_us, to_us)` of event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeRange {
    /// First µs of the range.
    pub from_us: i64,
    /// First µs after the range.
    pub to_us: i64,
}

impl TimeRange {
    /// Returns the range of the whole buckets of `timeframe` that this range touches.
    #[must_use]
    pub fn widened_to(self, timeframe: Timeframe) -> Self {
        let last = timeframe.bucket_start_us(self.to_us - 1);
        Self {
            from_us: timeframe.bucket_start_us(self.from_us),
            to_us: last + timeframe.micros(),
        }
    }

    /// Splits the range at `border_us`; an empty part is `None`.
    pub fn split_at(self, border_us: i64) -> (Option<Self>, Option<Self>) {
        let before = Self {
            to_us: self.to_us.min(border_us),
            ..self
        };
        let after = Self {
            from_us: self.from_us.max(border_us),
            ..self
        };
        (before.unless_empty(), after.unless_empty())
    }

    fn unless_empty(self) -> Option<Self> {
        (self.from_us < self.to_us).then_some(self)
    }

    /// Returns the parts of this range that lie in one of `others`.
    #[must_use]
    pub fn parts_in(self, others: &[Self]) -> Vec<Self> {
        let part = |other: &Self| Self {
            from_us: self.from_us.max(other.from_us),
            to_us: self.to_us.min(other.to_us),
        };
        others.iter().filter_map(|other| part(other).unless_empty()).collect()
    }

    /// Splits the range into consecutive pieces of `length_us`; the last may be shorter.
    pub fn pieces(self, length_us: i64) -> impl Iterator<Item = Self> {
        let next = move |from_us: i64| from_us.saturating_add(length_us).min(self.to_us);
        std::iter::successors(Some(self.from_us), move |from_us| Some(next(*from_us)))
            .take_while(move |from_us| *from_us < self.to_us)
            .map(move |from_us| Self {
                from_us,
                to_us: next(from_us),
            })
    }

    /// Merges ranges that overlap, touch, or have a gap of at most `gap_us` between them, and sorts them by time.
    pub fn merge(mut ranges: Vec<Self>, gap_us: i64) -> Vec<Self> {
        ranges.retain(|range| range.from_us < range.to_us);
        ranges.sort_unstable();
        let mut merged: Vec<Self> = Vec::new();
        for range in ranges {
            match merged.last_mut() {
                Some(last) if range.from_us <= last.to_us.saturating_add(gap_us) => {
                    last.to_us = last.to_us.max(range.to_us)
                }
                _ => merged.push(range),
            }
        }
        merged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn conversions_saturate_below_a_third_of_the_range() {
        assert_eq!(ms_to_us(7), 7_000);
        assert_eq!(
            (
                duration_us(Duration::from_millis(7)),
                duration_ms(Duration::from_millis(7))
            ),
            (7_000, 7)
        );
        let most = [
            ms_to_us(u64::MAX),
            duration_us(Duration::MAX),
            duration_ms(Duration::MAX).cast_signed(),
        ];
        assert!(most.iter().try_fold(0_i64, |sum, us| sum.checked_add(*us)).is_some());
    }

    #[test]
    fn text_and_back() {
        assert_eq!(rfc3339(1_570_752_000_000_000), "2019-10-11T00:00:00Z");
        assert_eq!(parse_rfc3339("2019-10-11T00:00:00.5+02:00"), Ok(1_570_744_800_500_000));
    }

    #[test]
    fn a_range_widens_to_whole_buckets() {
        let minute = 60_000_000;
        let range = TimeRange {
            from_us: 7 * minute,
            to_us: 10 * minute,
        };
        assert_eq!(
            range.widened_to(Timeframe::M5),
            TimeRange {
                from_us: 5 * minute,
                to_us: 10 * minute
            }
        );
    }

    #[test]
    fn a_range_is_split_at_a_border_at_gaps_and_into_pieces() {
        let range = |from_us, to_us| TimeRange { from_us, to_us };
        assert_eq!(range(2, 9).split_at(5), (Some(range(2, 5)), Some(range(5, 9))));
        assert_eq!(range(2, 9).split_at(2), (None, Some(range(2, 9))));
        assert_eq!(range(2, 9).split_at(99), (Some(range(2, 9)), None));
        let days = [range(0, 3), range(5, 6), range(8, 20)];
        assert_eq!(range(2, 9).parts_in(&days), [range(2, 3), range(5, 6), range(8, 9)]);
        assert!(range(3, 5).parts_in(&days).is_empty());
        assert_eq!(
            range(2, 9).pieces(3).collect::<Vec<_>>(),
            [range(2, 5), range(5, 8), range(8, 9)]
        );
        assert_eq!(range(2, 2).pieces(3).count(), 0);
    }

    proptest! {
        #[test]
        fn merging_covers_the_same_times_without_overlap(spans in prop::collection::vec((0i64..100, 1i64..10), 0..20)) {
            let range = |(from, length): &(i64, i64)| TimeRange { from_us: *from, to_us: from + length };
            let ranges: Vec<_> = spans.iter().map(range).collect();
            let merged = TimeRange::merge(ranges.clone(), 0);
            let covers = |ranges: &[TimeRange], t: i64| ranges.iter().any(|r| (r.from_us..r.to_us).contains(&t));
            for t in 0..120 {
                prop_assert_eq!(covers(&ranges, t), covers(&merged, t));
            }
            for pair in merged.windows(2) {
                prop_assert!(pair[0].to_us < pair[1].from_us);
            }
        }
    }
}
