//! Leaving out trades that were seen before.
//!
//! Exchanges number trades without gaps, so numeric IDs are kept as ranges and cost next to nothing; others are kept as
//! 128-bit hashes. Memory is bounded by two generations: when the current one is a window old it becomes the previous one, so
//! an ID is remembered for at least a window and at most two.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use storage_core::domain::symbol::Symbol;

/// The trade IDs of a partition's symbols within the window.
pub(crate) struct Dedup {
    window_ms: u64,
    symbols: HashMap<Symbol, Generations>,
}

#[derive(Default)]
struct Generations {
    begun_ms: u64,
    current: Seen,
    previous: Seen,
}

#[derive(Default)]
struct Seen {
    /// Disjoint, not touching ranges `first..=last` of numeric IDs.
    ranges: BTreeMap<u64, u64>,
    hashes: HashSet<u128>,
}

impl Dedup {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            symbols: HashMap::new(),
        }
    }

    /// Whether the trade was noted within the window before stream time `now_ms`.
    pub(crate) fn knows(&self, symbol: &Symbol, trade_id: &str, now_ms: u64) -> bool {
        self.symbols.get(symbol).is_some_and(|generations| {
            let age_ms = now_ms.saturating_sub(generations.begun_ms);
            age_ms < self.window_ms.saturating_mul(2) && generations.current.contains(trade_id)
                || age_ms < self.window_ms && generations.previous.contains(trade_id)
        })
    }

    /// Notes the trade at stream time `now_ms`.
    pub(crate) fn note(&mut self, symbol: &Symbol, trade_id: &str, now_ms: u64) {
        let window_ms = self.window_ms;
        let generations = match self.symbols.get_mut(symbol) {
            Some(generations) => generations,
            None => self.symbols.entry(symbol.clone()).or_default(),
        };
        generations.age(now_ms, window_ms);
        generations.current.insert(trade_id);
    }

    /// Forgets the symbols of which nothing is remembered any more at stream time `now_ms`.
    pub(crate) fn forget_quiet(&mut self, now_ms: u64) {
        let keep_ms = self.window_ms.saturating_mul(2);
        self.symbols
            .retain(|_, generations| now_ms < generations.begun_ms.saturating_add(keep_ms));
    }
}

impl Generations {
    fn age(&mut self, now_ms: u64, window_ms: u64) {
        let age_ms = now_ms.saturating_sub(self.begun_ms);
        if age_ms < window_ms {
            return;
        }
        self.previous = std::mem::take(&mut self.current);
        if age_ms >= window_ms.saturating_mul(2) {
            self.previous = Seen::default();
        }
        self.begun_ms = now_ms;
    }
}

impl Seen {
    fn contains(&self, trade_id: &str) -> bool {
        match numeric(trade_id) {
            Some(id) => self
                .ranges
                .range(..=id)
                .next_back()
                .is_some_and(|(_, last)| id <= *last),
            None => self.hashes.contains(&hash(trade_id)),
        }
    }

    fn insert(&mut self, trade_id: &str) {
        let Some(id) = numeric(trade_id) else {
            self.hashes.insert(hash(trade_id));
            return;
        };
        let before = self
            .ranges
            .range(..=id)
            .next_back()
            .map(|(first, last)| (*first, *last));
        let joins_before = before.is_some_and(|(_, last)| last.checked_add(1) == Some(id));
        if before.is_some_and(|(_, last)| id <= last) {
            return;
        }
        let after = id.checked_add(1).and_then(|next| self.ranges.remove(&next));
        let first = match before {
            Some((first, _)) if joins_before => first,
            _ => id,
        };
        self.ranges.insert(first, after.unwrap_or(id));
    }
}

/// The number that the ID is, written as numbers are: `007` is another ID than `7`.
fn numeric(trade_id: &str) -> Option<u64> {
    let canonical = trade_id == "0"
        || matches!(trade_id.as_bytes(), [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
    if canonical { trade_id.parse().ok() } else { None }
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

    /// Notes the trade and says whether it was known.
    fn seen(dedup: &mut Dedup, symbol: &Symbol, id: &str, now_ms: u64) -> bool {
        let known = dedup.knows(symbol, id, now_ms);
        dedup.note(symbol, id, now_ms);
        known
    }

    #[test]
    fn ids_are_any_text() {
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
        assert!(!dedup.knows(&"ETHUSDT".parse().unwrap(), "7", 50));
    }

    #[test]
    fn an_id_is_remembered_for_a_window_and_forgotten_after_two() {
        let (mut dedup, symbol) = dedup();
        assert!(!seen(&mut dedup, &symbol, "5", 1_000));
        assert!(seen(&mut dedup, &symbol, "5", 1_099));
        assert!(seen(&mut dedup, &symbol, "5", 1_150));
        assert!(!seen(&mut dedup, &symbol, "5", 1_400));
        dedup.forget_quiet(9_000);
        assert!(dedup.symbols.is_empty());
    }

    #[test]
    fn gapless_numbers_cost_one_range() {
        let (mut dedup, symbol) = dedup();
        for id in (0..1_000).rev().chain(1_000..2_000) {
            assert!(!seen(&mut dedup, &symbol, &id.to_string(), 0));
        }
        assert_eq!(dedup.symbols[&symbol].current.ranges.len(), 1);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(ids in prop::collection::vec(0u64..200, 0..300)) {
            let (mut dedup, symbol) = dedup();
            let mut set = HashSet::new();
            for id in ids {
                prop_assert_eq!(seen(&mut dedup, &symbol, &id.to_string(), 0), !set.insert(id));
            }
        }
    }
}
