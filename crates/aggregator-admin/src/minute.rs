//! Computes a minute's candle from its ticks. Pure.
//!
//! Retention drops ticks, usually all of a minute together, and later ticks of the minute may still arrive. If it may
//! have dropped some, the stored ticks are complete only if those up to the candle's revision are at least as many as
//! the candle has trades. Otherwise the candle is kept and the later ticks are added to it. The times of the dropped
//! ticks are unknown, so such a candle keeps its open, and its close is the price of the latest stored tick.
//!
//! A candle with more trades than ticks is kept as it is if retention has dropped none of them. A Redis that lost its
//! last second may have announced the candle and not its ticks. The producer sends those again, with later revisions,
//! and adding them would count them twice.
//!
//! Ticks are counted in the order in which Redis accepted them, as in hot-writer. A tick whose quantity would overflow
//! the volume, a bigint, is excluded; the ticks after it are counted.

use storage_core::domain::candle::Candle;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::queries::candles::CandleRow;
use storage_core::postgres::queries::tick_versions::Amendments;
use storage_core::postgres::queries::ticks::TickRow;

/// Returns the minute that starts at `start_us`.
pub(crate) fn minute(start_us: i64) -> TimeRange {
    TimeRange {
        from_us: start_us,
        to_us: start_us + Timeframe::M1.micros(),
    }
}

/// Result of the computation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ComputedMinute {
    /// Candle with its volume in units.
    pub(crate) candle: Candle,
    /// Volume in lots.
    pub(crate) volume_lots: i64,
    /// Ticks that would overflow the volume.
    pub(crate) excluded: Vec<ExcludedTick>,
    /// `true` if the stored candle, whose own ticks are not all stored, was kept or joined with its later ticks.
    pub(crate) is_joined: bool,
}

/// Tick that would overflow the volume of its minute.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExcludedTick {
    pub(crate) tick: TickRow,
    /// Volume of the minute before the tick, in lots.
    pub(crate) volume_before_lots: i64,
}

impl ComputedMinute {
    /// Computes a minute from its stored candle and ticks, which are in the order of their revisions. `has_all_ticks`
    /// is `true` if retention has dropped no tick of the minute. Returns `None` without candle and ticks. The candle of
    /// a minute with `amendments` has at least their revision, so that an older state of it does not replace it.
    pub(crate) fn of(
        stored: Option<&CandleRow>,
        ticks: &[TickRow],
        amendments: Amendments,
        decimals: u8,
        has_all_ticks: bool,
    ) -> Option<Self> {
        let mut from_ticks = Sum::new(decimals).add_all(ticks);
        if let Some(candle) = &mut from_ticks.candle {
            candle.revision = candle.revision.max(amendments.revision);
        }
        let Some(stored) = stored else {
            return from_ticks.computed(false);
        };
        let (counted, later) = ticks.split_at(ticks.partition_point(|tick| tick.revision <= stored.revision));
        // The stored candle may still count the busted trades.
        let trades = i64::from(stored.trades) - amendments.busted;
        let is_complete = has_all_ticks || i64::try_from(counted.len()).is_ok_and(|ticks| ticks >= trades);
        if is_complete && from_ticks.candle.as_ref().is_some_and(|candle| candle.trades >= trades) {
            return from_ticks.computed(false);
        }
        let kept = Sum::of(stored, counted, decimals);
        if has_all_ticks { kept } else { kept.add_all(later) }.computed(true)
    }

    /// Returns the candle as a row of `candles_1m`.
    pub(crate) fn row(&self, symbol: &Symbol) -> CandleRow {
        let candle = &self.candle;
        CandleRow {
            start_us: candle.start_us,
            symbol: symbol.clone(),
            open: candle.open,
            high: candle.high,
            low: candle.low,
            close: candle.close,
            volume_lots: self.volume_lots,
            trades: candle.trades.try_into().unwrap_or(i32::MAX),
            revision: candle.revision,
        }
    }
}

/// Candle of the ticks that were counted so far.
struct Sum {
    candle: Option<Candle>,
    lots: i64,
    decimals: u8,
    excluded: Vec<ExcludedTick>,
}

impl Sum {
    fn new(decimals: u8) -> Self {
        Self {
            candle: None,
            lots: 0,
            decimals,
            excluded: Vec::new(),
        }
    }

    /// Starts with a stored candle of whose ticks only `counted` are left.
    fn of(stored: &CandleRow, counted: &[TickRow], decimals: u8) -> Self {
        let last_us = counted.iter().map(|tick| tick.ts_us).max();
        let candle = Candle {
            last_us: last_us.unwrap_or(stored.start_us),
            ..stored.candle(decimals)
        };
        Self {
            candle: Some(candle),
            lots: stored.volume_lots,
            ..Self::new(decimals)
        }
    }

    fn add_all(mut self, ticks: &[TickRow]) -> Self {
        for tick in ticks {
            let Some(lots) = self.lots.checked_add(tick.lots) else {
                self.excluded.push(ExcludedTick {
                    tick: tick.clone(),
                    volume_before_lots: self.lots,
                });
                continue;
            };
            self.lots = lots;
            let volume = Decimal::from_lots(lots.into(), self.decimals);
            match &mut self.candle {
                Some(candle) => candle.fold(tick.ts_us, tick.price, volume, tick.revision),
                empty => {
                    *empty = Some(Candle::of_tick(
                        Timeframe::M1,
                        tick.ts_us,
                        tick.price,
                        volume,
                        tick.revision,
                    ));
                }
            }
        }
        self
    }

    fn computed(self, is_joined: bool) -> Option<ComputedMinute> {
        Some(ComputedMinute {
            candle: self.candle?,
            volume_lots: self.lots,
            excluded: self.excluded,
            is_joined,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use storage_core::domain::stream_id::StreamId;
    use storage_core::domain::tick::{AcceptedTick, Tick};

    const OLD_US: i64 = 1_570_752_000_000_000;

    fn tick(seq: u64, offset_us: i64, price: u32, lots: i64) -> TickRow {
        let origin = StreamId { ms: 1, seq };
        let tick = Tick {
            symbol: "A".parse().unwrap(),
            ts_us: OLD_US + offset_us,
            price: price.into(),
            qty: Decimal::from_lots(lots.into(), 0),
            trade_id: None,
            side: None,
        };
        let accepted = AcceptedTick {
            tick,
            revision: origin.try_into().unwrap(),
            origin,
        };
        TickRow::new(&accepted, lots).unwrap()
    }

    fn compute(held: Option<&CandleRow>, ticks: &[TickRow]) -> (CandleRow, Vec<u64>, bool) {
        compute_with(held, ticks, false)
    }

    fn compute_with(held: Option<&CandleRow>, ticks: &[TickRow], has_all_ticks: bool) -> (CandleRow, Vec<u64>, bool) {
        let computed = ComputedMinute::of(held, ticks, Amendments::default(), 0, has_all_ticks).unwrap();
        let excluded = computed.excluded.iter().map(|left| left.tick.revision.stream_id().seq);
        (
            computed.row(&"A".parse().unwrap()),
            excluded.collect(),
            computed.is_joined,
        )
    }

    /// Returns `(open, high, low, close, volume, trades)`.
    fn shown(row: &CandleRow) -> (f64, f64, f64, f64, i64, i32) {
        (row.open, row.high, row.low, row.close, row.volume_lots, row.trades)
    }

    #[test]
    fn a_late_tick_is_added_once_to_a_candle_whose_ticks_were_dropped() {
        let (held, ..) = compute(None, &[tick(1, 30_000_000, 50, 7)]);
        // The time of the dropped tick is unknown, so the late tick may be earlier or later.
        for offset_us in [0, 10_000_000, 50_000_000] {
            let late = [tick(2, offset_us, 60, 1)];
            let (joined, excluded, is_joined) = compute(Some(&held), &late);
            assert_eq!(shown(&joined), (50.0, 60.0, 50.0, 60.0, 8, 2));
            assert!(is_joined && excluded.is_empty());
            let (again, ..) = compute(Some(&joined), &late);
            assert_eq!(again, joined);
        }
        assert_eq!(compute(Some(&held), &[]).0, held);
        assert_eq!(ComputedMinute::of(None, &[], Amendments::default(), 0, false), None);
    }

    #[test]
    fn the_latest_of_the_late_ticks_gives_the_close_in_one_repair_or_several() {
        let (held, ..) = compute(None, &[tick(1, 30_000_000, 50, 7), tick(2, 31_000_000, 55, 1)]);
        let late = [tick(3, 50_000_000, 40, 1), tick(4, 20_000_000, 60, 2)];
        let (together, ..) = compute(Some(&held), &late);
        let (first, ..) = compute(Some(&held), &late[..1]);
        let (both, ..) = compute(Some(&first), &late);
        assert_eq!(shown(&together), (50.0, 60.0, 40.0, 40.0, 11, 4));
        assert_eq!(both, together);
        // The times of the first two late ticks are unknown after they were dropped as well.
        let (later, ..) = compute(Some(&both), &[tick(5, 10_000_000, 45, 1)]);
        assert_eq!(shown(&later), (50.0, 60.0, 40.0, 45.0, 12, 5));
    }

    #[test]
    fn a_candle_whose_ticks_are_all_stored_is_computed_from_them() {
        let ticks = [tick(1, 30, 50, 7), tick(2, 10, 60, 1), tick(3, 40, 70, 1)];
        let (held, ..) = compute(None, &ticks[..1]);
        let (row, _, is_joined) = compute(Some(&held), &ticks);
        assert_eq!(shown(&row), (60.0, 70.0, 50.0, 70.0, 9, 3));
        assert!(!is_joined);
        // A wrong candle is computed again, too, if it has no more trades than there are ticks.
        let wrong = CandleRow {
            open: 99.0,
            ..row.clone()
        };
        assert_eq!(compute(Some(&wrong), &ticks).0, row);
    }

    #[test]
    fn ticks_that_a_producer_sends_again_after_a_loss_count_once() {
        let sent = [tick(1, 10, 50, 7), tick(2, 20, 60, 1), tick(3, 30, 70, 1)];
        let (announced, ..) = compute(None, &sent);
        // Redis lost the last two after it had announced the candle.
        let again = [sent[0].clone(), tick(8, 20, 60, 1), tick(9, 30, 70, 1)];
        let (while_one_is_missing, ..) = compute_with(Some(&announced), &again[..2], true);
        assert_eq!(while_one_is_missing, announced);
        let (row, _, is_joined) = compute_with(Some(&announced), &again, true);
        assert_eq!(shown(&row), shown(&announced));
        assert!(!is_joined);
    }

    #[test]
    fn only_a_bust_reduces_the_trades_of_a_candle() {
        let ticks = [tick(1, 10, 50, 7), tick(2, 20, 60, 1), tick(3, 30, 70, 1)];
        let (stored, ..) = compute(None, &ticks);
        let left = [ticks[0].clone(), ticks[2].clone()];
        let computed = |busted| {
            let revision = StreamId { ms: 1, seq: 9 }.try_into().unwrap();
            let amendments = Amendments { busted, revision };
            ComputedMinute::of(Some(&stored), &left, amendments, 0, true).unwrap()
        };
        let row = computed(1).row(&"A".parse().unwrap());
        assert_eq!(shown(&row), (50.0, 70.0, 50.0, 70.0, 8, 2));
        assert_eq!(
            row.revision.stream_id().seq,
            9,
            "an older state of the candle does not replace it"
        );
        assert!(computed(0).is_joined);
    }

    #[test]
    fn a_tick_that_overflows_the_volume_is_excluded_and_later_ones_are_counted() {
        let most = i64::MAX;
        let ticks = [
            tick(1, 0, 1, 5),
            tick(2, 1, 2, most - 6),
            tick(3, 2, 3, 2),
            tick(4, 3, 4, 1),
            tick(5, 4, 5, 1),
        ];
        let (row, excluded, _) = compute(None, &ticks);
        assert_eq!((shown(&row), excluded), ((1.0, 4.0, 1.0, 4.0, most, 3), vec![3, 5]));
        // The candle of hot-writer, which excludes the same ticks.
        assert_eq!(compute(Some(&row), &ticks), (row, vec![3, 5], false));
    }

    #[test]
    fn a_tick_that_overflows_the_volume_is_not_added_to_a_candle_whose_ticks_were_dropped() {
        let (held, ..) = compute(None, &[tick(1, 0, 50, i64::MAX - 3)]);
        let (row, excluded, is_joined) = compute(Some(&held), &[tick(2, 5, 60, 4), tick(3, 6, 40, 3)]);
        assert_eq!(
            (shown(&row), excluded),
            ((50.0, 50.0, 40.0, 40.0, i64::MAX, 2), vec![2])
        );
        assert!(is_joined);
    }

    proptest! {
        /// The candle counts each late tick once, for any split of the ticks over repairs that may each run twice.
        #[test]
        fn every_late_tick_is_added_once(
            dropped in prop::collection::vec((0i64..60_000_000, 1u32..100), 1..10),
            late in prop::collection::vec((0i64..60_000_000, 1u32..100), 0..10),
            splits in prop::collection::vec(0usize..11, 0..5),
        ) {
            let numbered = |first: u64, trades: &[(i64, u32)]| -> Vec<TickRow> {
                let numbered = (first..).zip(trades);
                numbered.map(|(seq, (offset_us, price))| tick(seq, *offset_us, *price, i64::from(*price))).collect()
            };
            let (gone, kept) = (numbered(1, &dropped), numbered(100, &late));
            let (first, ..) = compute(None, &gone);
            let mut row = first.clone();
            let mut splits: Vec<usize> = splits.into_iter().map(|at| at.min(kept.len())).collect();
            splits.sort_unstable();
            splits.push(kept.len());
            for until in splits {
                row = compute(Some(&row), &kept[..until]).0;
                prop_assert_eq!(&compute(Some(&row), &kept[..until]).0, &row);
            }
            let (all, ..) = compute(None, &[gone, kept.clone()].concat());
            let totals = |row: &CandleRow| (row.high, row.low, row.volume_lots, row.trades);
            prop_assert_eq!(totals(&row), totals(&all));
            let last = kept.iter().max_by_key(|tick| (tick.ts_us, tick.revision));
            prop_assert_eq!((row.open, row.close), (first.open, last.map_or(first.close, |tick| tick.price)));
        }
    }
}
