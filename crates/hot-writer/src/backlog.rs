//! Decides how long effects are collected in a backlog. Pure: times are passed in.
//!
//! In a backlog the hot view is old anyway, so throughput counts: many ticks of a symbol cost one write of each of its
//! candles, and after the backlog all of them are written without delay. Otherwise effects are handed over immediately.

use std::time::{Duration, Instant};

use storage_core::domain::timeframe::Timeframe;

/// Limits of the time for which effects are collected. Between them, writing takes a tenth of the time of Redis.
const MIN_AGE: Duration = Duration::from_millis(500);
const MAX_AGE: Duration = Duration::from_secs(10);
const AGE_FACTOR: u32 = 10;
/// Minimum duration of a backlog; shorter ones are bursts.
const MIN_DURATION: Duration = Duration::from_millis(250);
/// Expected time of Redis for a candle.
const TIME_PER_CANDLE: Duration = Duration::from_micros(5);

/// Backlog of one partition.
#[derive(Debug)]
pub(crate) struct Backlog {
    /// Number of partitions, which write to the same Redis.
    partitions: u32,
    behind_since: Option<Instant>,
    has_caught_up: bool,
}

impl Backlog {
    pub(crate) fn new(partitions: u16) -> Self {
        Self {
            partitions: partitions.into(),
            behind_since: None,
            has_caught_up: false,
        }
    }

    /// Records a read that ended at `at`; `is_full` is `true` if there is probably more to read.
    pub(crate) fn record(&mut self, at: Instant, is_full: bool) {
        if is_full {
            self.behind_since.get_or_insert(at);
        } else if let Some(since) = self.behind_since.take() {
            self.has_caught_up = at.saturating_duration_since(since) >= MIN_DURATION;
        }
    }

    /// Returns `true` if there are entries to read.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind_since.is_some()
    }

    /// Returns `true` if the effects that are handed over now are those of a backlog.
    pub(crate) fn hand_over(&mut self) -> bool {
        std::mem::take(&mut self.has_caught_up) || self.is_behind()
    }

    /// Returns the time at which effects are due that were first read at `first_read` and change this number of
    /// symbols.
    pub(crate) fn due(&self, first_read: Instant, symbols: usize) -> Instant {
        if !self.is_behind() {
            return first_read;
        }
        let candles = u32::try_from(symbols * Timeframe::ALL.len()).unwrap_or(u32::MAX);
        let work = TIME_PER_CANDLE
            .saturating_mul(candles)
            .saturating_mul(AGE_FACTOR * self.partitions);
        first_read + work.clamp(MIN_AGE, MAX_AGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_are_collected_in_a_backlog_only_and_longer_for_more_symbols() {
        let read = Instant::now();
        let mut backlog = Backlog::new(4);
        assert_eq!(backlog.due(read, 1_000), read);
        backlog.record(read, true);
        let ages = [1, 500, 2_000, 100_000].map(|symbols| backlog.due(read, symbols) - read);
        assert_eq!(ages.map(|age| age.as_millis()), [500, 600, 2_400, 10_000]);
        backlog.record(read, false);
        assert_eq!(backlog.due(read, 1_000), read);
    }

    #[test]
    fn the_first_effects_after_a_backlog_belong_to_it() {
        let read = Instant::now();
        let mut backlog = Backlog::new(4);
        assert!(!backlog.hand_over());
        for (duration, belongs) in [(MIN_DURATION, true), (MIN_DURATION / 2, false)] {
            backlog.record(read, true);
            assert!(backlog.hand_over());
            backlog.record(read + duration, false);
            assert_eq!([backlog.hand_over(), backlog.hand_over()], [belongs, false]);
        }
    }
}
