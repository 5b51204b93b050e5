//! The feed of a load: its heartbeats while it is connected, and what they say about the minutes without trades.

use std::collections::{BTreeMap, BTreeSet};

use crate::producer::Fields;

/// Interval of the heartbeats, in µs: less than the time after which a feed counts as disconnected.
const INTERVAL_US: i64 = 10_000_000;
const MINUTE_US: i64 = 60_000_000;

/// A heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Number of the entry before which it is sent.
    pub before: usize,
    ts_us: i64,
    is_down: bool,
    symbols: String,
}

impl Heartbeat {
    /// Returns the fields that the producer sends.
    pub fn fields(&self) -> Fields {
        let state = if self.is_down { "down" } else { "up" };
        let fields = [
            ("feed", "load".to_owned()),
            ("ts_us", self.ts_us.to_string()),
            ("symbols", self.symbols.clone()),
            ("state", state.to_owned()),
        ];
        fields.map(|(name, value)| (name.to_owned(), value)).to_vec()
    }
}

/// A feed while its load is generated.
pub(super) struct Feed {
    pub(super) heartbeats: Vec<Heartbeat>,
    symbols: String,
    next_us: i64,
}

impl Feed {
    pub(super) fn new(symbols: &[String], start_us: i64) -> Self {
        Self {
            heartbeats: Vec::new(),
            symbols: symbols.join(" "),
            next_us: start_us,
        }
    }

    /// Adds the heartbeats up to `until_us`, before the entry number `before`.
    pub(super) fn run(&mut self, until_us: i64, before: usize) {
        while self.next_us <= until_us {
            self.add(self.next_us, before, false);
            self.next_us += INTERVAL_US;
        }
    }

    /// Disconnects the feed at its last heartbeat, until `until_us`.
    pub(super) fn disconnect(&mut self, until_us: i64, before: usize) {
        self.add(self.next_us - INTERVAL_US, before, true);
        self.next_us = until_us;
    }

    fn add(&mut self, ts_us: i64, before: usize, is_down: bool) {
        self.heartbeats.push(Heartbeat {
            before,
            ts_us,
            is_down,
            symbols: self.symbols.clone(),
        });
    }
}

/// Minutes of a symbol from the first to the last heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Minutes {
    /// Minutes with a candle.
    pub traded: usize,
    /// Others in which the feed was connected.
    pub quiet: usize,
    /// Others.
    pub missing: usize,
}

/// Counts the whole minutes between the first and the last heartbeat, by the starts of each symbol's candles.
pub fn minutes(heartbeats: &[Heartbeat], traded: &BTreeMap<&str, BTreeSet<i64>>) -> BTreeMap<String, Minutes> {
    let range = range(heartbeats);
    let mut disconnected = Vec::new();
    for (one, next) in heartbeats.iter().zip(heartbeats.iter().skip(1)) {
        if one.is_down {
            disconnected.push((one.ts_us, next.ts_us));
        }
    }
    let count = |traded: &BTreeSet<i64>| {
        let mut minutes = Minutes::default();
        for start_us in (range.0..range.1).step_by(usize::try_from(MINUTE_US).expect("a minute")) {
            let is_missing = |(from, to): &(i64, i64)| *from < start_us + MINUTE_US && *to > start_us;
            match traded.contains(&start_us) {
                true => minutes.traded += 1,
                false if disconnected.iter().any(is_missing) => minutes.missing += 1,
                false => minutes.quiet += 1,
            }
        }
        minutes
    };
    traded
        .iter()
        .map(|(symbol, traded)| ((*symbol).to_owned(), count(traded)))
        .collect()
}

/// Returns the start of the first and the end of the last whole minute between the first and the last heartbeat, in µs
/// since 1970.
pub fn range(heartbeats: &[Heartbeat]) -> (i64, i64) {
    let time = |heartbeat: Option<&Heartbeat>| heartbeat.map_or(0, |heartbeat| heartbeat.ts_us);
    let [first, last] = [heartbeats.first(), heartbeats.last()].map(time);
    (
        first + (MINUTE_US - first % MINUTE_US) % MINUTE_US,
        last - last % MINUTE_US,
    )
}
