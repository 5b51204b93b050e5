//! A symbol's candles of one timeframe in memory.

use storage_core::domain::candle::Candle;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles::ChangedFields;

/// A candle in memory and its state.
#[derive(Clone, Debug)]
pub(crate) struct TrackedCandle {
    pub(crate) candle: Candle,
    /// `true` once the candle is closed; only a late tick changes it then.
    pub(crate) is_final: bool,
    /// `true` if the candle has changed since it was last taken for writing.
    pub(crate) is_dirty: bool,
    /// Fields that have changed since then.
    pub(crate) changed: ChangedFields,
    /// `true` if the candle was closed or amended and has not been sent since.
    pub(crate) must_send: bool,
    /// The base that the candle requires if Redis may have lost earlier ticks of its bucket, or if one of its trades
    /// was amended.
    pub(crate) base: Option<RequiredBase>,
    /// State of an amended candle until its base arrives.
    pub(crate) amended: Option<Box<Amended>>,
}

/// State of an amended candle until its base arrives. Until then the candle is written as it was before the amendment,
/// with later ticks.
#[derive(Clone, Debug)]
pub(crate) struct Amended {
    /// Candle of the ticks after the base.
    pub(crate) later: Option<Candle>,
    /// `true` if the candle was incomplete before.
    is_incomplete: bool,
    /// The last amendment since the base was requested, which another base has to contain.
    again: Option<Revision>,
}

impl TrackedCandle {
    /// Creates an unchanged candle from its state in Redis.
    pub(crate) fn stored(candle: Candle, is_final: bool) -> Self {
        Self {
            candle,
            is_final,
            is_dirty: false,
            changed: ChangedFields::default(),
            must_send: false,
            base: None,
            amended: None,
        }
    }

    /// Creates the candle of a bucket with one tick, which the history has to count.
    pub(crate) fn awaited(candle: Candle) -> Self {
        Self {
            base: Some(RequiredBase {
                until: candle.revision,
                status: BaseStatus::Needed,
            }),
            amended: Some(Box::new(Amended {
                later: None,
                is_incomplete: true,
                again: None,
            })),
            ..Self::stored(candle, false)
        }
    }

    /// Returns `true` until the required base is joined.
    pub(crate) fn awaits_base(&self) -> bool {
        self.base.is_some_and(|base| base.status != BaseStatus::Joined)
    }

    /// Returns `true` while the candle lacks ticks that Redis may have lost. An incomplete candle is not written.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.awaits_base() && self.amended.as_ref().is_none_or(|amended| amended.is_incomplete)
    }

    /// Requires a base that contains the amendment of the entry `revision`. A requested base is awaited first:
    /// otherwise amendments that come faster than the answers would keep the candle from ever having one.
    pub(crate) fn amend(&mut self, revision: Revision) {
        let is_requested = self.base.is_some_and(|base| base.status == BaseStatus::Requested);
        if let Some(amended) = self.amended.as_mut().filter(|_| is_requested) {
            amended.again = amended.again.max(Some(revision));
            return;
        }
        let is_incomplete = self.is_incomplete();
        let until = self.candle.revision.max(revision);
        self.base = Some(RequiredBase {
            until: self.base.map_or(until, |base| base.until.max(until)),
            status: BaseStatus::Needed,
        });
        self.amended = Some(Box::new(Amended {
            later: None,
            is_incomplete,
            again: None,
        }));
    }

    /// Joins the required base, the candle of the bucket's ticks up to `until`. Without any tick left, the candle has
    /// no trades and no volume. `None` if the volume overflows.
    pub(crate) fn join_base(&mut self, base: Option<Candle>, until: Revision) -> Option<()> {
        let amended = self.amended.take();
        let again = amended.as_ref().and_then(|amended| amended.again);
        self.candle = match (base, amended) {
            (Some(base), None) => base.join(&self.candle)?,
            (None, None) => self.candle.clone(),
            (base, Some(amended)) => match (base, amended.later) {
                (Some(base), Some(later)) => base.join(&later)?,
                (Some(only), None) | (None, Some(only)) => only,
                (None, None) => Candle {
                    volume: Decimal::ZERO,
                    trades: 0,
                    revision: until,
                    ..self.candle.clone()
                },
            },
        };
        self.base = Some(RequiredBase {
            until,
            status: BaseStatus::Joined,
        });
        if let Some(again) = again {
            self.amend(again);
        }
        Some(())
    }
}

/// The first part of a candle, with the ticks and amendments up to `until`; aggregator-admin computes it from the
/// history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequiredBase {
    pub(crate) until: Revision,
    pub(crate) status: BaseStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BaseStatus {
    Needed,
    Requested,
    Joined,
}

/// The candles of one timeframe that are open or may still be amended, ordered by start; the last one is the current
/// candle. A series has at most about a dozen candles, and nearly every tick belongs to the last one.
#[derive(Clone, Debug, Default)]
pub(crate) struct CandleSeries(Vec<TrackedCandle>);

impl CandleSeries {
    /// Returns the start of the current candle, in µs since 1970.
    pub(crate) fn current_start_us(&self) -> Option<i64> {
        self.0.last().map(|tracked| tracked.candle.start_us)
    }

    /// Returns the candle of the bucket that contains `ts_us`.
    pub(crate) fn at_mut(&mut self, timeframe: Timeframe, ts_us: i64) -> Option<&mut TrackedCandle> {
        let mut newest_first = self.0.iter_mut().rev();
        let tracked = newest_first.find(|tracked| tracked.candle.start_us <= ts_us)?;
        (ts_us < tracked.candle.start_us + timeframe.micros()).then_some(tracked)
    }

    /// Returns `true` if the series has the candle of the bucket that contains `ts_us`.
    pub(crate) fn contains(&self, timeframe: Timeframe, ts_us: i64) -> bool {
        let start_us = timeframe.bucket_start_us(ts_us);
        self.0.iter().rev().any(|tracked| tracked.candle.start_us == start_us)
    }

    /// Inserts a candle, or replaces the one of the same bucket. Returns the previous current candle if the inserted
    /// one displaced it.
    pub(crate) fn insert(&mut self, tracked: TrackedCandle) -> Option<&mut TrackedCandle> {
        let start_us = tracked.candle.start_us;
        let at = self.0.partition_point(|other| other.candle.start_us < start_us);
        if self.0.get(at).is_some_and(|other| other.candle.start_us == start_us) {
            self.0[at] = tracked;
            return None;
        }
        // A series is short and there are many, so spare capacity would cost more memory than it saves time.
        self.0.reserve_exact(1);
        self.0.insert(at, tracked);
        let is_current = at + 1 == self.0.len();
        at.checked_sub(1)
            .filter(|_| is_current)
            .map(|previous| &mut self.0[previous])
    }

    /// Returns the candles, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &TrackedCandle> {
        self.0.iter()
    }

    /// Returns the candles, oldest first.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut TrackedCandle> {
        self.0.iter_mut()
    }

    /// Removes the candles for which `keep` returns `false`.
    pub(crate) fn retain(&mut self, keep: impl FnMut(&TrackedCandle) -> bool) {
        self.0.retain(keep);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use storage_core::domain::decimal::Decimal;

    use super::*;

    fn tracked(ts_us: i64) -> TrackedCandle {
        TrackedCandle::stored(
            Candle::of_tick(Timeframe::M1, ts_us, 1.0, Decimal::ZERO, Default::default()),
            false,
        )
    }

    proptest! {
        #[test]
        fn a_series_is_a_map_from_start_to_candle(
            times_us in prop::collection::vec(0i64..1_800_000_000, 1..30),
            asked_us in 0i64..1_800_000_000,
        ) {
            let (mut series, mut starts_us) = (CandleSeries::default(), std::collections::BTreeSet::new());
            for ts_us in times_us {
                let start_us = Timeframe::M1.bucket_start_us(ts_us);
                let newest_us = starts_us.last().copied();
                let displaced = series.insert(tracked(ts_us)).map(|tracked| tracked.candle.start_us);
                prop_assert_eq!(displaced, newest_us.filter(|newest_us| *newest_us < start_us));
                starts_us.insert(start_us);
            }
            prop_assert_eq!(series.current_start_us(), starts_us.last().copied());
            prop_assert!(series.iter().map(|tracked| tracked.candle.start_us).eq(starts_us.iter().copied()));
            let found = series.at_mut(Timeframe::M1, asked_us).map(|tracked| tracked.candle.start_us);
            prop_assert_eq!(found, starts_us.get(&Timeframe::M1.bucket_start_us(asked_us)).copied());
        }
    }
}
