//! Heartbeats for recorded ticks, in event time. Pure.

use std::collections::BTreeSet;

use storage_core::domain::heartbeat::Heartbeat;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;

use crate::outgoing::OutgoingTick;

/// Time between two heartbeats.
const INTERVAL_US: i64 = Timeframe::M1.micros() / 6;

/// Heartbeats of one feed, whose recording has no gaps.
#[derive(Clone, Debug)]
pub(crate) struct Heartbeats {
    feed: String,
    symbols: BTreeSet<Symbol>,
    last_us: Option<i64>,
}

impl Heartbeats {
    pub(crate) fn new(feed: String) -> Self {
        Self {
            feed,
            symbols: BTreeSet::new(),
            last_us: None,
        }
    }

    /// Returns the heartbeats up to the latest of `ticks`. A symbol is covered from its first tick on.
    pub(crate) fn until(&mut self, ticks: &[OutgoingTick]) -> Vec<Heartbeat> {
        let Some(latest_us) = ticks.iter().map(|tick| tick.at_us).max() else {
            return Vec::new();
        };
        let first_us = ticks.iter().map(|tick| tick.at_us).min().unwrap_or(latest_us);
        let known = self.symbols.len();
        self.symbols.extend(ticks.iter().map(|tick| tick.symbol.clone()));
        let mut list = (self.symbols.len() > known).then(|| self.symbols.clone());
        let mut beats = Vec::new();
        let mut at_us = self.last_us.map_or(first_us, |last_us| last_us + INTERVAL_US);
        while at_us <= latest_us || list.is_some() {
            let ts_us = at_us.min(latest_us.max(self.last_us.unwrap_or(latest_us)));
            beats.push(self.beat(ts_us, list.take()));
            self.last_us = Some(ts_us);
            at_us += INTERVAL_US;
        }
        beats
    }

    /// Returns the heartbeats that end the feed at `at_us`.
    pub(crate) fn end(&self, at_us: i64) -> Vec<Heartbeat> {
        let last = self.beat(at_us, None);
        let down = Heartbeat {
            is_down: true,
            ..last.clone()
        };
        vec![last, down]
    }

    fn beat(&self, ts_us: i64, symbols: Option<BTreeSet<Symbol>>) -> Heartbeat {
        Heartbeat {
            feed: self.feed.clone(),
            ts_us,
            symbols,
            is_down: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tick(name: &str, second: i64) -> OutgoingTick {
        OutgoingTick {
            symbol: name.parse().unwrap(),
            at_us: second * 1_000_000,
            fields: Vec::new(),
        }
    }

    fn seconds(beats: &[Heartbeat]) -> Vec<i64> {
        beats.iter().map(|beat| beat.ts_us / 1_000_000).collect()
    }

    #[test]
    fn a_recording_has_a_heartbeat_every_ten_seconds() {
        let mut beats = Heartbeats::new("f".to_owned());
        let first = beats.until(&[tick("A", 100), tick("A", 125)]);
        assert_eq!(seconds(&first), [100, 110, 120]);
        assert!(first[0].symbols.is_some() && first[1].symbols.is_none());
        assert_eq!(seconds(&beats.until(&[tick("A", 126)])), Vec::<i64>::new());
        let later = beats.until(&[tick("B", 151)]);
        assert_eq!(seconds(&later), [130, 140, 150]);
        assert_eq!(later[0].symbols.as_ref().unwrap().len(), 2);
        assert_eq!(
            seconds(&beats.until(&[tick("C", 152)])),
            [152],
            "a new symbol is announced immediately"
        );
        let end = beats.end(152_000_000);
        assert!(end[1].is_down);
    }
}
