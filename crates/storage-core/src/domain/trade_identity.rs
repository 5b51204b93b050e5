//! Identity of a trade: two entries of a tick stream are the same trade if they have the same symbol, the same
//! canonical trade ID, and event times that match.
//!
//! Event times are cut to the millisecond, because a file often has milliseconds where the feed had microseconds.
//! Sources in whole seconds exist as well, so an event time that ends in `.000` matches every event time of its second.
//! Times that do not match are different trades: exchanges number trades anew each day, and a consolidated feed has the
//! same number of several venues.
//!
//! The canonical ID is defined by [`canonical`](super::trade_id::canonical). Of several entries of one trade the first
//! in stream order counts. hot-writer's deduplication, the key of `ticks` and the commands that check the history use
//! these functions.

/// Event time of a trade as far as it identifies the trade: in ms since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TradeTime(i64);

impl TradeTime {
    /// Creates the identifying time of an event time in µs since 1970.
    pub const fn of_us(ts_us: i64) -> Self {
        Self(ts_us.div_euclid(1_000))
    }

    /// Creates the time from ms since 1970.
    pub const fn of_ms(ms: i64) -> Self {
        Self(ms)
    }

    /// Returns the time in ms since 1970.
    pub const fn ms(self) -> i64 {
        self.0
    }

    /// Returns the second that contains every time that matches, in s since 1970.
    pub const fn second(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// Returns `true` if two entries with the same symbol and trade ID are the same trade.
    pub const fn matches(self, other: Self) -> bool {
        self.0 == other.0 || self.second() == other.second() && (self.is_whole_second() || other.is_whole_second())
    }

    const fn is_whole_second(self) -> bool {
        self.0.rem_euclid(1_000) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn matches(a_us: i64, b_us: i64) -> bool {
        TradeTime::of_us(a_us).matches(TradeTime::of_us(b_us))
    }

    #[test]
    fn times_match_in_microseconds_milliseconds_and_seconds() {
        let us = 1_700_000_000_123_456;
        assert!(matches(us, us));
        assert!(matches(us, 1_700_000_000_123_000));
        assert!(matches(us, 1_700_000_000_000_000));
        assert!(!matches(us, 1_700_000_000_124_000));
        assert!(!matches(us, 1_700_000_001_000_000));
        assert!(!matches(us, 1_699_999_999_000_000));
        assert!(!matches(us, us + 86_400_000_000));
    }

    proptest! {
        #[test]
        fn the_order_of_two_times_makes_no_difference(a_us in 0i64..3_000_000, b_us in 0i64..3_000_000) {
            prop_assert_eq!(matches(a_us, b_us), matches(b_us, a_us));
        }

        #[test]
        fn a_time_matches_itself_in_any_resolution(ts_us in 0i64..4_000_000_000_000_000) {
            for unit_us in [1, 1_000, 1_000_000] {
                prop_assert!(matches(ts_us, ts_us - ts_us % unit_us));
            }
        }

        #[test]
        fn matching_times_are_in_the_same_second(a_us in 0i64..3_000_000, b_us in 0i64..3_000_000) {
            let second = |us| TradeTime::of_us(us).second();
            prop_assert!(!matches(a_us, b_us) || second(a_us) == second(b_us));
        }
    }
}
