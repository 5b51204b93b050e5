//! Drops duplicates: entries of a trade that was seen before. [`TradeTime`] defines which entries are the same trade.
//!
//! Exchanges number trades without gaps, so the event times of consecutive numbers are stored as a run, at four bytes a
//! trade. Other trades are stored in a table of hashes. There are two generations of trades: a generation that is one
//! window old becomes the previous one, so a trade is remembered for at least one window of stream time and at most
//! two.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, hash_map::Entry};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use foldhash::{HashMap, HashMapExt};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::duration_ms;
use storage_core::domain::trade_id;
use storage_core::domain::trade_identity::TradeTime;

/// Number of runs that may be extended: more than one because consecutive numbers may come slightly out of order, or
/// from several venues.
const OPEN_RUNS: usize = 4;

/// Minimum number of trades in a run that is no longer extended. A shorter one takes less memory in the table.
const MIN_RUN: usize = 8;

/// Trades of all symbols of a partition within the dedup window.
pub struct Dedup {
    window_ms: u64,
    symbols: HashMap<Symbol, Trades>,
}

/// A trade ID: its number if it is canonical decimal text (`007` is another ID than `7`), otherwise its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TradeId {
    /// A number.
    Number(u64),
    /// The hash of other text.
    Text(u64),
}

/// Trades of a symbol. Times are in ms of stream time.
#[derive(Default)]
pub struct Trades {
    window_ms: u64,
    begun_ms: u64,
    current: Generation,
    previous: Generation,
}

#[derive(Default)]
struct Generation {
    /// Runs that may be extended, the last extended one at the end. They may overlap each other and `runs`.
    open: Vec<Run>,
    /// Other runs by their first number. They do not overlap each other.
    runs: BTreeMap<u64, Run>,
    /// Event times in ms of all other trades, by [`key`].
    others: HashMap<u64, i64>,
}

/// Event times of the trades with consecutive numbers.
struct Run {
    first: u64,
    base_ms: i64,
    offsets_ms: Vec<i32>,
}

impl Dedup {
    /// Creates the memory of trades for a dedup window.
    pub fn new(window: Duration) -> Self {
        Self {
            window_ms: duration_ms(window),
            symbols: HashMap::new(),
        }
    }

    /// Returns the trades of `symbol`.
    pub fn of(&mut self, symbol: &Symbol) -> &mut Trades {
        let window_ms = self.window_ms;
        self.symbols.entry(symbol.clone()).or_insert_with(|| Trades {
            window_ms,
            ..Trades::default()
        })
    }

    /// Removes the symbols whose trades have all expired at stream time `now_ms`.
    pub(crate) fn remove_expired(&mut self, now_ms: u64) {
        let keep_ms = self.window_ms.saturating_mul(2);
        self.symbols
            .retain(|_, trades| now_ms < trades.begun_ms.saturating_add(keep_ms));
    }
}

impl Trades {
    /// Returns `true` if the trade was added within the window before `now_ms`.
    pub fn contains(&self, id: TradeId, time: TradeTime, now_ms: u64) -> bool {
        let age_ms = now_ms.saturating_sub(self.begun_ms);
        age_ms < self.window_ms.saturating_mul(2) && self.current.contains(id, time)
            || age_ms < self.window_ms && self.previous.contains(id, time)
    }

    /// Adds the trade at `now_ms`.
    pub fn insert(&mut self, id: TradeId, time: TradeTime, now_ms: u64) {
        self.rotate(now_ms);
        self.current.insert(id, time);
    }

    fn rotate(&mut self, now_ms: u64) {
        let age_ms = now_ms.saturating_sub(self.begun_ms);
        if age_ms < self.window_ms {
            return;
        }
        self.previous = std::mem::take(&mut self.current);
        if age_ms >= self.window_ms.saturating_mul(2) {
            self.previous = Generation::default();
        }
        self.begun_ms = now_ms;
    }
}

impl Generation {
    fn contains(&self, id: TradeId, time: TradeTime) -> bool {
        let is_in_run = match id {
            TradeId::Number(number) => {
                let before = || self.runs.range(..=number).next_back();
                let mut open = self.open.iter().rev();
                open.any(|run| run.contains(number, time))
                    || before().is_some_and(|(_, run)| run.contains(number, time))
            }
            TradeId::Text(_) => false,
        };
        is_in_run || !self.others.is_empty() && self.is_in_table(id, time)
    }

    fn is_in_table(&self, id: TradeId, time: TradeTime) -> bool {
        let mut found = (0..).map_while(|at| self.others.get(&key(id, time, at)));
        found.any(|ms| TradeTime::of_ms(*ms).matches(time))
    }

    fn insert(&mut self, id: TradeId, time: TradeTime) {
        let TradeId::Number(number) = id else {
            return self.insert_in_table(id, time);
        };
        if let Some(at) = self.open.iter_mut().rposition(|run| run.extend(number, time)) {
            self.open[at..].rotate_left(1);
            self.join_open();
            return;
        }
        if self.open.len() == OPEN_RUNS {
            let oldest = self.open.remove(0);
            self.close(oldest);
        }
        // Most symbols have one run, so spare capacity would cost more memory than it saves time.
        self.open.reserve_exact(1);
        self.open.push(Run {
            first: number,
            base_ms: time.ms(),
            offsets_ms: vec![0],
        });
        self.join_open();
    }

    /// Joins the last open run with the one that continues it, as after numbers that came out of order.
    fn join_open(&mut self) {
        let Some((run, others)) = self.open.split_last_mut() else {
            return;
        };
        if let Some(at) = others.iter().position(|other| run.join(other)) {
            self.open.remove(at);
        }
    }

    /// Keeps a run that is no longer extended.
    fn close(&mut self, mut run: Run) {
        let before = self.runs.range(..=run.last()).next_back();
        let is_overlapping = before.is_some_and(|(_, before)| before.last() >= run.first);
        if is_overlapping || run.offsets_ms.len() < MIN_RUN {
            for (number, offset_ms) in (run.first..).zip(run.offsets_ms) {
                let time = TradeTime::of_ms(run.base_ms + i64::from(offset_ms));
                self.insert_in_table(TradeId::Number(number), time);
            }
        } else {
            run.offsets_ms.shrink_to_fit();
            self.runs.insert(run.first, run);
        }
    }

    fn insert_in_table(&mut self, id: TradeId, time: TradeTime) {
        for at in 0.. {
            match self.others.entry(key(id, time, at)) {
                Entry::Occupied(other) if *other.get() != time.ms() => {}
                entry => {
                    entry.insert_entry(time.ms());
                    return;
                }
            }
        }
    }
}

impl Run {
    fn last(&self) -> u64 {
        self.first + (self.offsets_ms.len() as u64 - 1)
    }

    fn contains(&self, number: u64, time: TradeTime) -> bool {
        let at = number.checked_sub(self.first).and_then(|at| usize::try_from(at).ok());
        let offset_ms = at.and_then(|at| self.offsets_ms.get(at));
        offset_ms.is_some_and(|offset_ms| TradeTime::of_ms(self.base_ms + i64::from(*offset_ms)).matches(time))
    }

    /// Adds the trades of `next` if it begins with the next number. Returns `true` if they were added.
    fn join(&mut self, next: &Self) -> bool {
        if self.last() + 1 != next.first {
            return false;
        }
        let Ok(shift_ms) = i32::try_from(next.base_ms.saturating_sub(self.base_ms)) else {
            return false;
        };
        let shifted = next.offsets_ms.iter().map(|offset_ms| offset_ms.checked_add(shift_ms));
        let Some(mut shifted) = shifted.collect::<Option<Vec<i32>>>() else {
            return false;
        };
        self.offsets_ms.append(&mut shifted);
        true
    }

    /// Adds the trade if it has the next number. Returns `true` if it was added.
    fn extend(&mut self, number: u64, time: TradeTime) -> bool {
        let offset_ms = i32::try_from(time.ms().saturating_sub(self.base_ms));
        match offset_ms {
            Ok(offset_ms) if self.last() + 1 == number => {
                self.offsets_ms.push(offset_ms);
                true
            }
            _ => false,
        }
    }
}

impl TradeId {
    /// Returns the ID of a canonical text.
    pub fn parse(text: &str) -> Self {
        trade_id::as_number(text).map_or_else(|| Self::Text(hash(text)), Self::Number)
    }
}

/// Returns the key of a trade in the table: of those with the same ID in the same second, the one number `at`.
fn key(id: TradeId, time: TradeTime, at: u64) -> u64 {
    hash((id, time.second(), at))
}

fn hash(value: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY_MS: i64 = 86_400_000;
    const TIMES_MS: [i64; 7] = [0, 1, 500, 999, 1_000, 1_001, DAY_MS];

    fn dedup() -> (Dedup, Symbol) {
        (Dedup::new(Duration::from_millis(100)), "BTCUSDT".parse().unwrap())
    }

    /// Inserts the trade unless it was there before, and returns `true` if it was.
    fn seen_at(dedup: &mut Dedup, symbol: &Symbol, id: &str, time_ms: i64, now_ms: u64) -> bool {
        let (trades, id, time) = (dedup.of(symbol), TradeId::parse(id), TradeTime::of_ms(time_ms));
        let is_known = trades.contains(id, time, now_ms);
        if !is_known {
            trades.insert(id, time, now_ms);
        }
        is_known
    }

    fn seen(dedup: &mut Dedup, symbol: &Symbol, id: &str, now_ms: u64) -> bool {
        seen_at(dedup, symbol, id, 1, now_ms)
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
        assert!(!seen(&mut dedup, &"ETHUSDT".parse().unwrap(), "7", 50));
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
    fn gapless_numbers_are_stored_as_runs_also_out_of_order_and_of_two_venues() {
        for numbers in [
            (0..10_000).collect::<Vec<u64>>(),
            (0..5_000).flat_map(|pair| [2 * pair + 1, 2 * pair]).collect(),
            (0..5_000).flat_map(|number| [number, 1_000_000 + number]).collect(),
        ] {
            let (mut dedup, symbol) = dedup();
            for number in numbers {
                assert!(!seen(&mut dedup, &symbol, &number.to_string(), 0));
            }
            let trades = &dedup.of(&symbol).current;
            assert!(trades.open.len() <= OPEN_RUNS && trades.runs.len() + trades.others.len() < 10);
        }
    }

    #[test]
    fn ids_that_begin_again_each_day_are_new_trades_and_their_repetitions_are_not() {
        let (mut dedup, symbol) = dedup();
        for is_repetition in [false, true] {
            for day in 0..5 {
                for id in 1..=20 {
                    let time_ms = day * DAY_MS + id * 1_001;
                    assert_eq!(seen_at(&mut dedup, &symbol, &id.to_string(), time_ms, 0), is_repetition);
                }
            }
        }
    }

    #[test]
    fn a_trade_is_recognized_in_milliseconds_and_in_seconds() {
        let (mut dedup, symbol) = dedup();
        let mut seen = |id, time_ms| seen_at(&mut dedup, &symbol, id, time_ms, 0);
        for id in ["5", "a"] {
            assert!(!seen(id, 7_123));
            assert!(seen(id, 7_000));
            assert!(!seen(id, 7_124), "another venue");
            assert!(!seen(id, 8_000));
            assert!(seen(id, 8_999));
        }
    }

    proptest! {
        /// Also of numbers that begin again, repeat and come out of order.
        #[test]
        fn a_trade_is_a_duplicate_if_a_counted_one_matches(
            trades in prop::collection::vec((0u64..60, prop::sample::select(TIMES_MS.to_vec())), 0..400),
            ascending: bool,
            text: bool,
        ) {
            let (mut dedup, symbol) = dedup();
            let mut counted: Vec<(u64, TradeTime)> = Vec::new();
            for (at, (id, ms)) in (0..).zip(trades) {
                let id = if ascending { at % 50 + id % 3 } else { id };
                let time = TradeTime::of_ms(ms);
                let expected = counted.iter().any(|(other, counted)| *other == id && counted.matches(time));
                let id_text = if text { format!("id-{id}") } else { id.to_string() };
                prop_assert_eq!(seen_at(&mut dedup, &symbol, &id_text, ms, 0), expected);
                if !expected {
                    counted.push((id, time));
                }
            }
        }
    }
}
