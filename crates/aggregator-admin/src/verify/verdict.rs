//! Decides what a difference means. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use storage_core::domain::partition::partition_of;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::duration_us;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::queries::positions::LostEntries;
use storage_core::postgres::queries::verify::Difference;
use storage_core::redis::stream::Stream;

use super::settle::Unfinished;

/// Kind of a finding, which decides how it is mended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// A minute lacks trades of its ticks or has wrong values: it is computed from its ticks.
    Minute,
    /// A minute counts trades that `ticks` lacks and a stream still holds: warm-syncer reads their entries again.
    TicksInStream,
    /// A minute counts trades that `ticks` does not hold. The ticks may be lost, so only `--force` lowers it.
    TicksMissing,
    /// A larger candle differs: it is computed from the smaller ones.
    Larger,
}

impl Class {
    pub(crate) fn of(timeframe: Timeframe, difference: &Difference) -> Self {
        let Difference {
            found_trades,
            expected_trades,
            ..
        } = difference;
        match timeframe {
            Timeframe::M1 if found_trades > expected_trades => Self::TicksMissing,
            Timeframe::M1 => Self::Minute,
            _ => Self::Larger,
        }
    }
}

/// Refreshes of the recent past that run without a request.
#[derive(Clone, Debug)]
pub(crate) struct Refreshes {
    /// Intervals at which they run, by timeframe.
    pub(crate) intervals: BTreeMap<Timeframe, Duration>,
    /// Age of the candles up to which they refresh.
    pub(crate) window: Duration,
}

/// State of the workers at the second look.
#[derive(Clone, Debug)]
pub(crate) struct Evidence {
    pub(crate) partitions: u16,
    pub(crate) unfinished: Unfinished,
    pub(crate) now_us: i64,
    /// `None` if nothing refreshes larger candles at present.
    pub(crate) refreshes: Option<Refreshes>,
}

/// Time after a tick in which its open minute may be neither in Redis nor in the history: a restored candle waits for
/// its beginning.
const OPEN_US: i64 = 120_000_000;
/// Time that a refresh may take.
const REFRESH_US: i64 = 30_000_000;

impl Evidence {
    /// Returns `true` if the workers will still write or refresh the candle.
    pub(crate) fn is_waiting(&self, timeframe: Timeframe, difference: &Difference) -> bool {
        let partition = difference.symbol.parse::<Symbol>().ok();
        let partition = partition.map(|symbol| partition_of(&symbol, self.partitions));
        if partition.is_some_and(|partition| self.unfinished.partitions.contains(&partition)) || self.unfinished.repairs
        {
            return true;
        }
        let accepted_us = difference.expected_revision.map(accepted_us);
        let is_younger_than = |us: i64| accepted_us.is_some_and(|accepted_us| self.now_us - accepted_us < us);
        match timeframe {
            Timeframe::M1 => difference.found.is_none() && is_younger_than(OPEN_US),
            // Its revision does not tell whether a candle lacks trades: repairs write minutes in any order.
            larger => self.unfinished.rollups || self.refresh_us(larger, difference).is_some_and(is_younger_than),
        }
    }

    /// Returns the time within which the bucket is refreshed after its source changed; `None` if nothing will.
    fn refresh_us(&self, timeframe: Timeframe, difference: &Difference) -> Option<i64> {
        let refreshes = self.refreshes.as_ref()?;
        let is_recent = self.now_us - difference.time.timestamp_micros() < duration_us(refreshes.window);
        let interval = *refreshes.intervals.get(&timeframe)?;
        // Each timeframe is refreshed when the next smaller one has been.
        let delay: Duration = refreshes
            .intervals
            .range(..=timeframe)
            .map(|(_, interval)| *interval)
            .sum();
        is_recent.then(|| duration_us(delay + interval) + REFRESH_US)
    }
}

/// Returns `true` if only the revision of a minute is too high, because Redis has lost its ticks and accepted them
/// again under later IDs.
pub(crate) fn is_of_lost_entry(difference: &Difference, partitions: u16, losses: &[LostEntries]) -> bool {
    let Ok(symbol) = difference.symbol.parse::<Symbol>() else {
        return false;
    };
    let stream = Stream::Ticks(partition_of(&symbol, partitions)).key().to_string();
    let (Some(found), Some(expected)) = (difference.found_revision, difference.expected_revision) else {
        return false;
    };
    difference.is_of_revision()
        && found > expected
        && losses
            .iter()
            .any(|lost| lost.stream == stream && lost.after < expected && expected <= lost.until)
}

fn accepted_us(revision: i64) -> i64 {
    let revision = Revision::try_from(revision).unwrap_or_default();
    revision.stream_id().accepted_us()
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_core::domain::stream_id::StreamId;
    use storage_core::domain::time::to_datetime;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn revision(age_s: u64) -> Option<i64> {
        let id = StreamId::at_ms(NOW_MS - age_s * 1_000);
        Some(Revision::try_from(id).unwrap().as_i64())
    }

    fn difference(found: Option<i64>, expected: Option<i64>) -> Difference {
        Difference {
            symbol: "A".to_owned(),
            time: to_datetime(1_799_999_000_000_000),
            found: found.map(|_| "(1)".to_owned()),
            expected: expected.map(|_| "(2)".to_owned()),
            found_trades: found.map(|_| 1),
            expected_trades: expected.map(|_| 2),
            found_revision: found,
            expected_revision: expected,
            is_beyond_bigint: false,
        }
    }

    fn evidence(refreshes: Option<Refreshes>) -> Evidence {
        Evidence {
            partitions: 1,
            unfinished: Unfinished::default(),
            now_us: 1_800_000_000_000_000,
            refreshes,
        }
    }

    fn refreshes(intervals: &[(Timeframe, u64)], window_s: u64) -> Option<Refreshes> {
        let interval = |(timeframe, seconds): &(_, _)| (*timeframe, Duration::from_secs(*seconds));
        Some(Refreshes {
            intervals: intervals.iter().map(interval).collect(),
            window: Duration::from_secs(window_s),
        })
    }

    #[test]
    fn a_larger_candle_waits_for_the_next_refresh_only_if_its_source_has_just_changed() {
        let fresh = difference(revision(500), revision(100));
        let old = difference(revision(500), revision(400));
        let repaired = difference(revision(100), revision(100));
        let by_hand = difference(revision(400), revision(400));
        let removed = difference(revision(100), None);
        let each_minute = refreshes(&[(Timeframe::H1, 60)], 345_600);
        for changing in [&fresh, &repaired] {
            assert!(
                evidence(each_minute.clone()).is_waiting(Timeframe::H1, changing),
                "{changing:?}"
            );
        }
        for wrong in [&old, &by_hand, &removed] {
            assert!(
                !evidence(each_minute.clone()).is_waiting(Timeframe::H1, wrong),
                "{wrong:?}"
            );
        }
        assert!(
            !evidence(None).is_waiting(Timeframe::H1, &fresh),
            "nothing refreshes it"
        );
        let each_hour = refreshes(&[(Timeframe::H1, 3_600)], 345_600);
        assert!(
            evidence(each_hour).is_waiting(Timeframe::H1, &old),
            "it runs every hour"
        );
        let after_smaller = refreshes(&[(Timeframe::M15, 300), (Timeframe::H1, 60)], 345_600);
        assert!(
            evidence(after_smaller).is_waiting(Timeframe::H1, &old),
            "15-minute candles are refreshed first"
        );
        let outside = refreshes(&[(Timeframe::H1, 60)], 60);
        assert!(
            !evidence(outside).is_waiting(Timeframe::H1, &fresh),
            "announced instead"
        );
    }

    #[test]
    fn a_candle_waits_for_what_the_workers_have_not_processed() {
        let wrong = difference(revision(900), revision(900));
        let mut behind = evidence(None);
        behind.unfinished.partitions.insert(0);
        assert!(behind.is_waiting(Timeframe::M1, &wrong));
        behind.unfinished = Unfinished {
            partitions: [7].into(),
            ..Unfinished::default()
        };
        assert!(!behind.is_waiting(Timeframe::M1, &wrong), "another partition");
        behind.unfinished.repairs = true;
        assert!(behind.is_waiting(Timeframe::M1, &wrong));
        behind.unfinished = Unfinished {
            rollups: true,
            ..Unfinished::default()
        };
        assert!(!behind.is_waiting(Timeframe::M1, &wrong));
        assert!(behind.is_waiting(Timeframe::D1, &difference(revision(900), revision(800))));
    }

    #[test]
    fn a_minute_without_a_candle_waits_while_it_may_be_open() {
        assert!(evidence(None).is_waiting(Timeframe::M1, &difference(None, revision(60))));
        assert!(!evidence(None).is_waiting(Timeframe::M1, &difference(None, revision(600))));
        assert!(!evidence(None).is_waiting(Timeframe::M1, &difference(revision(60), revision(60))));
    }

    #[test]
    fn a_revision_is_explained_by_entries_that_redis_has_lost_and_by_nothing_else() {
        let mut raised = difference(Some(700), Some(500));
        raised.expected.clone_from(&raised.found);
        let lost = |stream: &str, after, until| LostEntries {
            stream: stream.to_owned(),
            after,
            until,
        };
        let is_explained = |difference: &Difference, lost| is_of_lost_entry(difference, 1, &[lost]);
        assert!(is_explained(&raised, lost("stream:ticks:0", 400, 500)));
        assert!(!is_explained(&raised, lost("stream:ticks:1", 400, 500)));
        assert!(!is_explained(&raised, lost("stream:ticks:0", 500, 600)));
        let lowered = Difference {
            found_revision: Some(450),
            ..raised.clone()
        };
        assert!(!is_explained(&lowered, lost("stream:ticks:0", 400, 500)));
        let other = difference(Some(700), Some(500));
        assert!(!is_explained(&other, lost("stream:ticks:0", 400, 500)));
    }

    #[test]
    fn a_minute_with_more_trades_than_ticks_is_lowered_only_by_force() {
        let class = |difference| Class::of(Timeframe::M1, &difference);
        assert_eq!(class(difference(revision(1), None)), Class::TicksMissing);
        assert_eq!(class(difference(None, revision(1))), Class::Minute);
        assert_eq!(class(difference(revision(1), revision(1))), Class::Minute);
        assert_eq!(Class::of(Timeframe::D1, &difference(revision(1), None)), Class::Larger);
    }
}
