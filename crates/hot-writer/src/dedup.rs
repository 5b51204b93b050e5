//! Drops duplicates: trades whose trade ID was seen before.
//!
//! Exchanges number trades without gaps, so numeric IDs are stored as ranges and take almost no memory; other IDs are
//! stored as 128-bit hashes. There are two generations of IDs: a generation that is one window old becomes the previous
//! one, so an ID is remembered for at least one window and at most two.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use foldhash::HashMap;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::duration_ms;
use storage_core::domain::trade_id;

/// Trade IDs of all symbols of a partition within the dedup window.
pub(crate) struct Dedup {
    window_ms: u64,
    symbols: HashMap<Symbol, Trades>,
}

/// A trade ID: its number if it is canonical decimal text (`007` is another ID than `7`), otherwise its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TradeId {
    Number(u64),
    Hash(u128),
}

/// Trade IDs of a symbol. Times are in ms of stream time.
#[derive(Default)]
pub(crate) struct Trades {
    window_ms: u64,
    begun_ms: u64,
    current: TradeIds,
    previous: TradeIds,
}

#[derive(Default)]
struct TradeIds {
    /// The range `first..=last` of numeric IDs that was extended last. It may overlap others.
    newest: Option<(u64, u64)>,
    /// Ranges `first..=last` of numeric IDs that neither overlap nor adjoin.
    ranges: BTreeMap<u64, u64>,
    hashes: HashSet<u128>,
}

impl Dedup {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window_ms: duration_ms(window),
            symbols: HashMap::default(),
        }
    }

    /// Returns the trades of `symbol`.
    pub(crate) fn of(&mut self, symbol: &Symbol) -> &mut Trades {
        let window_ms = self.window_ms;
        self.symbols.entry(symbol.clone()).or_insert_with(|| Trades {
            window_ms,
            ..Trades::default()
        })
    }

    /// Removes the symbols whose trade IDs have all expired at stream time `now_ms`.
    pub(crate) fn remove_expired(&mut self, now_ms: u64) {
        let keep_ms = self.window_ms.saturating_mul(2);
        self.symbols
            .retain(|_, trades| now_ms < trades.begun_ms.saturating_add(keep_ms));
    }
}

impl Trades {
    /// Returns `true` if the trade was added within the window before `now_ms`.
    pub(crate) fn contains(&self, id: TradeId, now_ms: u64) -> bool {
        let age_ms = now_ms.saturating_sub(self.begun_ms);
        age_ms < self.window_ms.saturating_mul(2) && self.current.contains(id)
            || age_ms < self.window_ms && self.previous.contains(id)
    }

    /// Adds the trade at `now_ms`.
    pub(crate) fn insert(&mut self, id: TradeId, now_ms: u64) {
        self.rotate(now_ms);
        self.current.insert(id);
    }

    fn rotate(&mut self, now_ms: u64) {
        let age_ms = now_ms.saturating_sub(self.begun_ms);
        if age_ms < self.window_ms {
            return;
        }
        self.previous = std::mem::take(&mut self.current);
        if age_ms >= self.window_ms.saturating_mul(2) {
            self.previous = TradeIds::default();
        }
        self.begun_ms = now_ms;
    }
}

impl TradeIds {
    fn contains(&self, id: TradeId) -> bool {
        match id {
            TradeId::Number(id) => {
                let is_in = |(first, last): (u64, u64)| first <= id && id <= last;
                let before = || self.ranges.range(..=id).next_back();
                self.newest.is_some_and(is_in) || before().is_some_and(|(first, last)| is_in((*first, *last)))
            }
            TradeId::Hash(hash) => self.hashes.contains(&hash),
        }
    }

    fn insert(&mut self, id: TradeId) {
        match id {
            TradeId::Number(id) => match &mut self.newest {
                Some((first, last)) if *first <= id && id <= *last => {}
                Some((_, last)) if last.checked_add(1) == Some(id) => *last = id,
                _ => {
                    let previous = self.newest.replace((id, id));
                    previous.into_iter().for_each(|range| self.insert_range(range));
                }
            },
            TradeId::Hash(hash) => {
                self.hashes.insert(hash);
            }
        }
    }

    /// Inserts a range, merged with those that it overlaps or adjoins.
    fn insert_range(&mut self, (mut first, mut last): (u64, u64)) {
        while let Some((other_first, other_last)) = self.ranges.range(..=last.saturating_add(1)).next_back() {
            if other_last.saturating_add(1) < first {
                break;
            }
            (first, last) = (first.min(*other_first), last.max(*other_last));
            let merged = *other_first;
            self.ranges.remove(&merged);
        }
        self.ranges.insert(first, last);
    }
}

impl TradeId {
    pub(crate) fn parse(text: &str) -> Self {
        trade_id::as_number(text).map_or_else(|| Self::Hash(hash(text)), Self::Number)
    }
}

fn hash(trade_id: &str) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        trade_id.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dedup() -> (Dedup, Symbol) {
        (Dedup::new(Duration::from_millis(100)), "BTCUSDT".parse().unwrap())
    }

    /// Inserts the trade and returns `true` if it was there before.
    fn seen(dedup: &mut Dedup, symbol: &Symbol, id: &str, now_ms: u64) -> bool {
        let (trades, id) = (dedup.of(symbol), TradeId::parse(id));
        let known = trades.contains(id, now_ms);
        trades.insert(id, now_ms);
        known
    }

    #[test]
    fn a_trade_id_may_be_any_text() {
        let (mut dedup, symbol) = dedup();
        for id in [
            "7",
            "007",
            "2f9e7c1a-5f0e",
            "18446744073709551615",
            "18446744073709551616",
            "0",
            "-1",
        ] {
            assert!(!seen(&mut dedup, &symbol, id, 0), "{id}");
            assert!(seen(&mut dedup, &symbol, id, 50), "{id}");
        }
        assert!(!dedup.of(&"ETHUSDT".parse().unwrap()).contains(TradeId::parse("7"), 50));
    }

    #[test]
    fn an_id_is_remembered_for_a_window_and_forgotten_after_two() {
        let (mut dedup, symbol) = dedup();
        assert!(!seen(&mut dedup, &symbol, "5", 1_000));
        assert!(seen(&mut dedup, &symbol, "5", 1_099));
        assert!(seen(&mut dedup, &symbol, "5", 1_150));
        assert!(!seen(&mut dedup, &symbol, "5", 1_400));
        dedup.remove_expired(9_000);
        assert!(dedup.symbols.is_empty());
    }

    #[test]
    fn gapless_numbers_are_stored_as_one_range() {
        let (mut dedup, symbol) = dedup();
        for id in (0..1_000).rev().chain(1_000..2_000) {
            assert!(!seen(&mut dedup, &symbol, &id.to_string(), 0));
        }
        let seen = &mut dedup.of(&symbol).current;
        let newest = seen.newest.take().unwrap();
        seen.insert_range(newest);
        assert_eq!(seen.ranges.len(), 1);
    }

    proptest! {
        #[test]
        fn the_trade_ids_are_a_set(ids in prop::collection::vec(0u64..200, 0..300)) {
            let (mut dedup, symbol) = dedup();
            let mut set = HashSet::new();
            for id in ids {
                prop_assert_eq!(seen(&mut dedup, &symbol, &id.to_string(), 0), !set.insert(id));
            }
        }
    }
}
