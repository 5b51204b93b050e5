//! [`Candle`]: open, high, low, close and volume of one bucket.

use super::decimal::Decimal;
use super::stream_id::Revision;
use super::timeframe::Timeframe;

/// A symbol's candle of one bucket. All values are absolute, so writing it twice changes nothing.
#[derive(Clone, Debug, PartialEq)]
pub struct Candle {
    /// Start of the bucket in µs since 1970.
    pub start_us: i64,
    /// Price of the first tick, by event time and then by stream ID.
    pub open: f64,
    /// Highest price.
    pub high: f64,
    /// Lowest price.
    pub low: f64,
    /// Price of the last tick, by event time and then by stream ID.
    pub close: f64,
    /// Sum of the quantities in units.
    pub volume: Decimal,
    /// Number of ticks; 0 if all trades of the bucket were busted, and then the prices and times have no meaning.
    pub trades: i64,
    /// Event time of the first tick in µs since 1970.
    pub first_us: i64,
    /// Event time of the last tick in µs since 1970.
    pub last_us: i64,
    /// First entry folded in. A candle whose `since` is after the `revision` of another one does not contain the ticks
    /// of that one.
    pub since: Revision,
    /// Last entry folded in.
    pub revision: Revision,
}

/// A candle, open or closed.
#[derive(Clone, Debug, PartialEq)]
pub struct CandleState {
    /// The candle.
    pub candle: Candle,
    /// `true` if it is closed; a closed candle changes only by an amendment with a higher revision.
    pub is_final: bool,
}

impl Candle {
    /// Creates the candle of a single tick.
    pub fn of_tick(timeframe: Timeframe, ts_us: i64, price: f64, qty: Decimal, revision: Revision) -> Self {
        Self {
            start_us: timeframe.bucket_start_us(ts_us),
            open: price,
            high: price,
            low: price,
            close: price,
            volume: qty,
            trades: 1,
            first_us: ts_us,
            last_us: ts_us,
            since: revision,
            revision,
        }
    }

    /// Folds in a tick of this bucket. Ticks must come in stream order: of two with the same event time the first sets
    /// the open and the last the close.
    pub fn fold(&mut self, ts_us: i64, price: f64, volume: Decimal, revision: Revision) {
        if self.trades == 0 {
            (self.first_us, self.last_us) = (ts_us, ts_us);
            (self.open, self.high, self.low) = (price, price, price);
        }
        if ts_us < self.first_us {
            self.first_us = ts_us;
            self.open = price;
        }
        if ts_us >= self.last_us {
            self.last_us = ts_us;
            self.close = price;
        }
        self.high = self.high.max(price);
        self.low = self.low.min(price);
        self.volume = volume;
        self.trades += 1;
        self.revision = revision;
    }

    /// Joins two candles of the same bucket. Redis must have accepted all ticks of `later` after all ticks of this one.
    /// `None` if the sum of volumes or trades overflows.
    #[must_use]
    pub fn join(self, later: &Self) -> Option<Self> {
        Some(Self {
            start_us: self.start_us,
            open: if later.first_us < self.first_us {
                later.open
            } else {
                self.open
            },
            high: self.high.max(later.high),
            low: self.low.min(later.low),
            close: if later.last_us >= self.last_us {
                later.close
            } else {
                self.close
            },
            volume: self.volume.checked_add(later.volume)?,
            trades: self.trades.checked_add(later.trades)?,
            first_us: self.first_us.min(later.first_us),
            last_us: self.last_us.max(later.last_us),
            since: self.since,
            revision: later.revision,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn revision(seq: i64) -> Revision {
        seq.try_into().unwrap()
    }

    fn candle(ticks: &[(i64, u32)], first_seq: i64) -> Option<Candle> {
        let mut folded: Option<Candle> = None;
        for (seq, (ts_us, price)) in (first_seq..).zip(ticks) {
            let qty = Decimal::from_lots(i128::from(*price), 2);
            match &mut folded {
                None => {
                    folded = Some(Candle::of_tick(
                        Timeframe::M1,
                        *ts_us,
                        f64::from(*price),
                        qty,
                        revision(seq),
                    ))
                }
                Some(candle) => {
                    let volume = candle.volume.checked_add(qty).unwrap();
                    candle.fold(*ts_us, f64::from(*price), volume, revision(seq));
                }
            }
        }
        folded
    }

    proptest! {
        #[test]
        fn two_parts_join_to_the_candle_of_all_ticks_wherever_they_are_split(
            ticks in prop::collection::vec((0i64..50, 1u32..100), 2..40),
            cut in 1usize..40,
        ) {
            let cut = cut.min(ticks.len() - 1);
            let later = candle(&ticks[cut..], i64::try_from(cut).unwrap() + 1).unwrap();
            prop_assert_eq!(candle(&ticks[..cut], 1).unwrap().join(&later), candle(&ticks, 1));
        }

        #[test]
        fn equals_the_definition_in_any_order_of_event_times(
            ticks in prop::collection::vec((0i64..50, 1u32..100), 1..40),
        ) {
            let candle = candle(&ticks, 1).unwrap();
            let mut sorted: Vec<_> = ticks.iter().enumerate().collect();
            sorted.sort_by_key(|(seq, (ts_us, _))| (*ts_us, *seq));
            let prices = || ticks.iter().map(|(_, price)| f64::from(*price));
            prop_assert_eq!(candle.open, f64::from(sorted[0].1.1));
            prop_assert_eq!(candle.close, f64::from(sorted[sorted.len() - 1].1.1));
            prop_assert_eq!(candle.high, prices().fold(f64::MIN, f64::max));
            prop_assert_eq!(candle.low, prices().fold(f64::MAX, f64::min));
            prop_assert_eq!(candle.volume.to_lots(2), Some((ticks.iter().map(|(_, p)| i128::from(*p)).sum(), true)));
            prop_assert_eq!(candle.trades, i64::try_from(ticks.len()).unwrap());
        }
    }
}
