//! Buckets to refresh. Pure.

use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;

/// Timeframes that are computed from smaller ones, smallest first.
pub(crate) const LARGER: [Timeframe; 5] = [
    Timeframe::M5,
    Timeframe::M15,
    Timeframe::H1,
    Timeframe::H4,
    Timeframe::D1,
];

/// Returns the whole buckets of `timeframe` that `ranges` touch, merged and sorted by time.
pub(crate) fn touched(ranges: &[TimeRange], timeframe: Timeframe) -> Vec<TimeRange> {
    TimeRange::merge(ranges.iter().map(|range| range.widened_to(timeframe)).collect(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: i64 = 60_000_000;

    fn minutes(from: i64, to: i64) -> TimeRange {
        TimeRange {
            from_us: from * MINUTE,
            to_us: to * MINUTE,
        }
    }

    #[test]
    fn neighbours_become_one_range_and_distant_ones_stay_apart() {
        let ranges = [minutes(1, 2), minutes(7, 8), minutes(60, 61), minutes(61, 62)];
        assert_eq!(touched(&ranges, Timeframe::M5), [minutes(0, 10), minutes(60, 65)]);
        assert_eq!(touched(&ranges, Timeframe::H1), [minutes(0, 120)]);
        assert_eq!(touched(&ranges, Timeframe::D1), [minutes(0, 1440)]);
    }
}
