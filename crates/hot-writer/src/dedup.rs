//! Leaving out trades that were seen before.
//!
//! Exchanges number trades without gaps, so numeric IDs are kept as ranges and cost next to nothing; others are kept as
//! 128-bit hashes. Memory is bounded by two generations: when the current one is a window old it becomes the previous one, so
//! an ID is remembered for at least a window and at most two.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use foldhash::HashMap;
use storage_core::domain::symbol::Symbol;

/// The trade IDs of a partition's symbols within the window.
pub(crate) struct Dedup {
    window_ms: u64,
    symbols: HashMap<Symbol, Trades>,
}

/// A trade ID: as a number where it is written as numbers are (`007` is another ID than `7`), or else its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TradeId {
    Number(u64),
    Hash(u128),
}

/// The trade IDs of a symbol.
#[derive(Default)]
pub(crate) struct Trades {
    window_ms: u64,
    begun_ms: u64,
    current: Seen,
    previous: Seen,
}

#[derive(Default)]
struct Seen {
    /// The range `first..=last` of numeric IDs that grew last. It may overlap others.
    newest: Option<(u64, u64)>,
    /// Disjoint, not touching ranges `first..=last` of numeric IDs.
    ranges: BTreeMap<u64, u64>,
    hashes: HashSet<u128>,
}

impl Dedup {
    pub(crate) fn new(window: Duration) -> Self {
        Self {
            window_ms: u64::try_from(window.as_millis()).unwrap_or(u64::MAX),
            symbols: HashMap::default(),
        }
    }

    /// The trades of `symbol`.
    pub(crate) fn of(&mut self, symbol: &Symbol) -> &mut Trades {
        let window_ms = self.window_ms;
        self.symbols.entry(symbol.clone()).or_insert_with(|| Trades {
            window_ms,
            ..Trades::default()
        })
    }

    /// Forgets the symbols of which nothing is remembered any more at stream time `now_ms`.
    pub(crate) fn forget_quiet(&mut self, now_ms: u64) {
        let keep_ms = self.window_ms.saturating_mul(2);
        self.symbols
            .retain(|_, trades| now_ms < trades.begun_ms.saturating_add(keep_ms));
    }
}

impl Trades {
    /// Whether the trade was noted within the window before stream time `now_ms`.
    pub(crate) fn know(&self, id: TradeId, now_ms: u64) -> bool {
        let age_ms = now_ms.saturating_sub(self.begun_ms);
        age_ms < self.window_ms.saturating_mul(2) && self.current.contains(id)
            || age_ms < self.window_ms && self.previous.contains(id)
    }

    /// Notes the trade at stream time `now_ms`.
    pub(crate) fn note(&mut self, id: TradeId, now_ms: u64) {
        self.age(now_ms);
        self.current.insert(id);
    }

    fn age(&mut self, now_ms: u64) {
        let age_ms = now_ms.saturating_sub(self.begun_ms);
        if age_ms < self.window_ms {
            return;
        }
        self.previous = std::mem::take(&mut self.current);
        if age_ms >= self.window_ms.saturating_mul(2) {
            self.previous = Seen::default();
        }
        self.begun_ms = now_ms;
    }
}

impl Seen {
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
                    let before = self.newest.replace((id, id));
                    before.into_iter().for_each(|range| self.keep(range));
                }
            },
            TradeId::Hash(hash) => {
                self.hashes.insert(hash);
            }
        }
    }

    /// Takes a range in among the others, in one with those that it overlaps or touches.
    fn keep(&mut self, (mut first, mut last): (u64, u64)) {
        while let Some((other_first, other_last)) = self.ranges.range(..=last.saturating_add(1)).next_back() {
            if other_last.saturating_add(1) < first {
                break;
            }
            (first, last) = (first.min(*other_first), last.max(*other_last));
            let touched = *other_first;
            self.ranges.remove(&touched);
        }
        self.ranges.insert(first, last);
    }
}

impl TradeId {
    /// The ID that is written as `text`.
    pub(crate) fn of(text: &str) -> Self {
        let canonical =
            text == "0" || matches!(text.as_bytes(), [b'1'..=b'9', rest @ ..] if rest.iter().all(u8::is_ascii_digit));
        let number = if canonical { text.parse().ok() } else { None };
        number.map_or_else(|| Self::Hash(hash(text)), Self::Number)
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

    /// Notes the trade and says whether it was known.
    fn seen(dedup: &mut Dedup, symbol: &Symbol, id: &str, now_ms: u64) -> bool {
        let (trades, id) = (dedup.of(symbol), TradeId::of(id));
        let known = trades.know(id, now_ms);
        trades.note(id, now_ms);
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
        assert!(!dedup.of(&"ETHUSDT".parse().unwrap()).know(TradeId::of("7"), 50));
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
        let seen = &mut dedup.of(&symbol).current;
        let newest = seen.newest.take().unwrap();
        seen.keep(newest);
        assert_eq!(seen.ranges.len(), 1);
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
