//! A minute's candle computed from its ticks. Pure.
//!
//! Ticks are dropped by retention, mostly with all others of their minute, and trades may come later still. So the ticks that are
//! kept are taken for all of a minute's only if those that its candle has counted are among them: the kept ones up to the candle's
//! revision must be as many as it has trades. Otherwise the candle stays as it is, and the later ones join it. When the trades that
//! were dropped happened is not known: the candle keeps its open, and the last of the kept trades by time gives the close.
//!
//! Ticks are counted in the order in which Redis accepted them, as hot-writer does. One that would make the volume leave bigint is
//! left out, and what comes after it is counted.

use storage_core::domain::candle::Candle;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::queries::candles::CandleRow;
use storage_core::postgres::queries::ticks::TickRow;

/// The minute that starts at `start_us`.
pub(crate) fn minute(start_us: i64) -> TimeRange {
    TimeRange {
        from_us: start_us,
        to_us: start_us + Timeframe::M1.micros(),
    }
}

/// A candle and the ticks that it was computed from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Computed {
    /// The candle, volume in units.
    pub(crate) candle: Candle,
    /// Its volume in lots.
    pub(crate) volume_lots: i64,
    /// The ticks that it can't count.
    pub(crate) left_out: Vec<LeftOut>,
    /// Whether the ticks joined a candle that has more trades than are kept.
    pub(crate) is_joined: bool,
}

/// A tick that would make its minute's volume leave bigint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LeftOut {
    pub(crate) tick: TickRow,
    /// The minute's volume before it, in lots.
    pub(crate) held_lots: i64,
}

impl Computed {
    /// Computes a minute from the ticks that are kept of it, in the order of their revisions, and the candle that it has. `None`
    /// where there is neither.
    pub(crate) fn of(held: Option<&CandleRow>, ticks: &[TickRow], decimals: u8) -> Option<Self> {
        let anew = Sum::new(decimals).add_all(ticks);
        let Some(held) = held else {
            return anew.computed(false);
        };
        let (counted, later) = ticks.split_at(ticks.partition_point(|tick| tick.revision <= held.revision));
        let has_all = |trades: usize| i64::try_from(trades).is_ok_and(|trades| trades >= i64::from(held.trades));
        if has_all(counted.len())
            && anew
                .candle
                .as_ref()
                .is_some_and(|candle| candle.trades >= i64::from(held.trades))
        {
            return anew.computed(false);
        }
        Sum::of(held, counted, decimals).add_all(later).computed(true)
    }

    /// The candle as `candles_1m` holds it.
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

/// What was counted so far.
struct Sum {
    candle: Option<Candle>,
    lots: i64,
    decimals: u8,
    left_out: Vec<LeftOut>,
}

impl Sum {
    fn new(decimals: u8) -> Self {
        Self {
            candle: None,
            lots: 0,
            decimals,
            left_out: Vec::new(),
        }
    }

    /// Begins with a candle, of whose ticks only `counted` are kept.
    fn of(held: &CandleRow, counted: &[TickRow], decimals: u8) -> Self {
        let last_us = counted.iter().map(|tick| tick.ts_us).max();
        let candle = Candle {
            start_us: held.start_us,
            open: held.open,
            high: held.high,
            low: held.low,
            close: held.close,
            volume: Decimal::from_lots(held.volume_lots.into(), decimals),
            trades: held.trades.into(),
            first_us: held.start_us,
            last_us: last_us.unwrap_or(held.start_us),
            since: Revision::default(),
            revision: held.revision,
        };
        Self {
            candle: Some(candle),
            lots: held.volume_lots,
            ..Self::new(decimals)
        }
    }

    fn add_all(mut self, ticks: &[TickRow]) -> Self {
        for tick in ticks {
            let Some(lots) = self.lots.checked_add(tick.lots) else {
                self.left_out.push(LeftOut {
                    tick: tick.clone(),
                    held_lots: self.lots,
                });
                continue;
            };
            self.lots = lots;
            let volume = Decimal::from_lots(lots.into(), self.decimals);
            match &mut self.candle {
                Some(candle) => candle.fold(tick.ts_us, tick.price, volume, tick.revision),
                none => {
                    *none = Some(Candle::of_tick(
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

    fn computed(self, is_joined: bool) -> Option<Computed> {
        Some(Computed {
            candle: self.candle?,
            volume_lots: self.lots,
            left_out: self.left_out,
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
        let computed = Computed::of(held, ticks, 0).unwrap();
        let left_out = computed.left_out.iter().map(|left| left.tick.revision.stream_id().seq);
        (
            computed.row(&"A".parse().unwrap()),
            left_out.collect(),
            computed.is_joined,
        )
    }

    /// `(open, high, low, close, volume, trades)`
    fn shown(row: &CandleRow) -> (f64, f64, f64, f64, i64, i32) {
        (row.open, row.high, row.low, row.close, row.volume_lots, row.trades)
    }

    #[test]
    fn a_trade_joins_a_candle_whose_ticks_are_gone_once() {
        let (held, ..) = compute(None, &[tick(1, 30_000_000, 50, 7)]);
        // Earlier or later than what was dropped: nobody knows.
        for offset_us in [0, 10_000_000, 50_000_000] {
            let late = [tick(2, offset_us, 60, 1)];
            let (joined, left_out, is_joined) = compute(Some(&held), &late);
            assert_eq!(shown(&joined), (50.0, 60.0, 50.0, 60.0, 8, 2));
            assert!(is_joined && left_out.is_empty());
            let (again, ..) = compute(Some(&joined), &late);
            assert_eq!(again, joined);
        }
        assert_eq!(compute(Some(&held), &[]).0, held);
        assert_eq!(Computed::of(None, &[], 0), None);
    }

    #[test]
    fn of_late_trades_the_last_by_time_closes_whether_they_come_together_or_not() {
        let (held, ..) = compute(None, &[tick(1, 30_000_000, 50, 7), tick(2, 31_000_000, 55, 1)]);
        let late = [tick(3, 50_000_000, 40, 1), tick(4, 20_000_000, 60, 2)];
        let (together, ..) = compute(Some(&held), &late);
        let (first, ..) = compute(Some(&held), &late[..1]);
        let (both, ..) = compute(Some(&first), &late);
        assert_eq!(shown(&together), (50.0, 60.0, 40.0, 40.0, 11, 4));
        assert_eq!(both, together);
        // When the first of them is gone as well, nothing is known of it.
        let (later, ..) = compute(Some(&both), &[tick(5, 10_000_000, 45, 1)]);
        assert_eq!(shown(&later), (50.0, 60.0, 40.0, 45.0, 12, 5));
    }

    #[test]
    fn a_candle_whose_ticks_are_all_kept_is_computed_anew() {
        let ticks = [tick(1, 30, 50, 7), tick(2, 10, 60, 1), tick(3, 40, 70, 1)];
        let (held, ..) = compute(None, &ticks[..1]);
        let (row, _, is_joined) = compute(Some(&held), &ticks);
        assert_eq!(shown(&row), (60.0, 70.0, 50.0, 70.0, 9, 3));
        assert!(!is_joined);
        // Also a wrong one that has no more trades than are kept.
        let wrong = CandleRow {
            open: 99.0,
            ..row.clone()
        };
        assert_eq!(compute(Some(&wrong), &ticks).0, row);
    }

    #[test]
    fn a_trade_that_does_not_fit_is_left_out_and_what_comes_after_it_is_counted() {
        let most = i64::MAX;
        let ticks = [
            tick(1, 0, 1, 5),
            tick(2, 1, 2, most - 6),
            tick(3, 2, 3, 2),
            tick(4, 3, 4, 1),
            tick(5, 4, 5, 1),
        ];
        let (row, left_out, _) = compute(None, &ticks);
        assert_eq!((shown(&row), left_out), ((1.0, 4.0, 1.0, 4.0, most, 3), vec![3, 5]));
        // The candle of hot-writer, which left out the same.
        assert_eq!(compute(Some(&row), &ticks), (row, vec![3, 5], false));
    }

    #[test]
    fn a_trade_that_does_not_fit_is_left_out_of_a_candle_whose_ticks_are_gone() {
        let (held, ..) = compute(None, &[tick(1, 0, 50, i64::MAX - 3)]);
        let (row, left_out, is_joined) = compute(Some(&held), &[tick(2, 5, 60, 4), tick(3, 6, 40, 3)]);
        assert_eq!(
            (shown(&row), left_out),
            ((50.0, 50.0, 40.0, 40.0, i64::MAX, 2), vec![2])
        );
        assert!(is_joined);
    }

    proptest! {
        /// However the late trades are split over repairs, each of which may be done twice, the candle counts each of them once.
        #[test]
        fn every_late_trade_joins_once(
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
            prop_assert_eq!((row.high, row.low, row.volume_lots, row.trades), (all.high, all.low, all.volume_lots, all.trades));
            let last = kept.iter().max_by_key(|tick| (tick.ts_us, tick.revision));
            prop_assert_eq!((row.open, row.close), (first.open, last.map_or(first.close, |tick| tick.price)));
        }
    }
}
