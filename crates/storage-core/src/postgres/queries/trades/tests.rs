use super::*;
use crate::domain::amendment::Change;
use crate::domain::stream_id::Revision;
use crate::domain::tick::{AcceptedTick, Tick};
use proptest::prelude::*;

impl Stored {
    fn apply(&mut self, changes: Changes) {
        let is = |row: &TickRow, other: &TickRow| (row.ts_us, &row.key) == (other.ts_us, &other.key);
        self.ticks
            .retain(|row| !changes.corrected.iter().chain(&changes.new).any(|new| is(row, new)));
        let removed = |row: &TickRow| {
            changes
                .removed
                .contains(&(row.symbol.clone(), row.ts_us, row.key.clone()))
        };
        self.ticks.retain(|row| !removed(row));
        self.ticks.extend(changes.corrected);
        self.ticks.extend(changes.new);
        self.versions.extend(changes.versions);
    }
}

/// Returns the prices of the trades that the batches leave, by trade ID and time.
fn written(batches: &[&[Entry]]) -> BTreeMap<(i64, i64), f64> {
    let mut stored = Stored::default();
    let mut revision = 0;
    for batch in batches {
        let entries: Vec<Write> = batch
            .iter()
            .map(|entry| {
                revision += 1;
                entry.write(revision)
            })
            .collect();
        let mut trades = stored.trades(|_| 0);
        for entry in &entries {
            apply(&mut trades, entry, |_| 0);
        }
        let changes = Changes::of(&trades, |_| 0).unwrap();
        stored.apply(changes);
    }
    let prices = stored.ticks.iter().map(|row| ((row.key.number, row.ts_us), row.price));
    prices.collect()
}

/// An entry: trade ID, time, price and kind (0 a trade, 1 a correction, 2 a bust).
#[derive(Clone, Copy, Debug)]
struct Entry {
    id: i64,
    ts_us: i64,
    price: u32,
    kind: u8,
}

impl Entry {
    fn write(self, number: i64) -> Write {
        let (symbol, trade_id) = ("A".parse().unwrap(), self.id.to_string());
        let revision: Revision = number.try_into().unwrap();
        let (price, qty) = (f64::from(self.price), Decimal::from_lots(1, 0));
        let change = match self.kind {
            0 => {
                let tick = Tick {
                    symbol,
                    ts_us: self.ts_us,
                    price,
                    qty,
                    trade_id: Some(trade_id.into()),
                    side: None,
                };
                let origin = revision.stream_id();
                return Write::Trade(TickRow::new(&AcceptedTick { tick, revision, origin }, 1).unwrap());
            }
            1 => Change::Correction { price, qty, side: None },
            _ => Change::Bust,
        };
        Write::Amendment(Amendment {
            symbol,
            ts_us: self.ts_us,
            trade_id: trade_id.into(),
            change,
            replaces: None,
            revision,
        })
    }
}

/// Returns the same from the plain definition.
fn defined(feed: &[Entry]) -> BTreeMap<(i64, i64), f64> {
    let mut known: Vec<(i64, i64, Vec<Option<u32>>)> = Vec::new();
    for entry in feed {
        let time = TradeTime::of_us(entry.ts_us);
        let is_same = |ts_us: i64| TradeTime::of_us(ts_us) == time;
        let mut matching: Vec<_> = known
            .iter_mut()
            .filter(|(id, ts_us, _)| *id == entry.id && TradeTime::of_us(*ts_us).matches(time))
            .collect();
        matching.sort_by_key(|(_, ts_us, _)| !is_same(*ts_us));
        match (matching.into_iter().next(), entry.kind) {
            (None, 0) => known.push((entry.id, entry.ts_us, vec![Some(entry.price)])),
            (Some((.., versions)), 1) if !versions.contains(&Some(entry.price)) && !versions.contains(&None) => {
                versions.push(Some(entry.price));
            }
            (Some((.., versions)), 2) if !versions.contains(&None) => versions.push(None),
            _ => {}
        }
    }
    let current = known.into_iter().filter_map(|(id, ts_us, versions)| {
        let price = versions.last().copied().flatten()?;
        Some(((id, ts_us), f64::from(price)))
    });
    current.collect()
}

/// Returns the entries without amendments before their trade and without whole seconds, which may match several
/// trades.
fn in_order(feed: Vec<Entry>) -> Vec<Entry> {
    let mut kept: Vec<Entry> = Vec::new();
    for entry in feed {
        let time = TradeTime::of_us(entry.ts_us);
        let is_trade = |other: &Entry| other.id == entry.id && TradeTime::of_us(other.ts_us) == time && other.kind == 0;
        if time.ms() % 1_000 != 0 && (entry.kind == 0 || kept.iter().any(is_trade)) {
            kept.push(entry);
        }
    }
    kept
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let times_us = vec![0, 123, 5_000, 5_999, 6_001, 1_000_000, 1_005_000, 86_400_005_000];
    let entry = (
        1i64..3,
        prop::sample::select(times_us),
        1u32..4,
        prop::sample::select(vec![0, 0, 0, 1, 1, 2]),
    );
    let entry = entry.prop_map(|(id, ts_us, price, kind)| Entry { id, ts_us, price, kind });
    prop::collection::vec(entry, 1..40)
}

fn bust(symbol: &str, ts_us: i64) -> Write {
    Write::Amendment(Amendment {
        symbol: symbol.parse().unwrap(),
        ts_us,
        trade_id: "1".into(),
        change: Change::Bust,
        replaces: None,
        revision: Revision::default(),
    })
}

#[test]
fn entries_in_order_are_read_as_one_range_and_the_whole_second_before_them() {
    let entries = [
        bust("A", 5_200_300),
        bust("A", 5_900_000),
        bust("A", 6_700_000),
        bust("B", 9_000_000),
    ];
    let found: Vec<_> = ranges(&entries)
        .into_iter()
        .map(|(symbol, range)| (symbol.as_str(), range.from_us, range.to_us))
        .collect();
    let expected = [
        ("A", 5_200_000, 6_701_000),
        ("B", 9_000_000, 10_000_000),
        ("A", 5_000_000, 5_001_000),
    ];
    assert_eq!(found, expected);
}

proptest! {
    #[test]
    fn any_feed_in_any_batches_leaves_the_trades_of_the_definition(
        feed in entries(),
        cuts in prop::collection::vec(0usize..40, 0..5),
    ) {
        let mut cuts: Vec<usize> = cuts.into_iter().map(|at| at.min(feed.len())).collect();
        cuts.extend([0, feed.len()]);
        cuts.sort_unstable();
        let batches: Vec<&[Entry]> = cuts.windows(2).map(|cut| &feed[cut[0]..cut[1]]).collect();
        prop_assert_eq!(written(&batches), defined(&feed));
    }

    #[test]
    fn a_feed_that_is_sent_again_and_cut_off_changes_nothing(feed in entries(), cut in 0usize..40) {
        let feed = in_order(feed);
        let cut = cut.min(feed.len());
        prop_assert_eq!(written(&[&feed, &feed[..cut]]), written(&[&feed]));
    }

    #[test]
    fn every_time_that_matches_is_in_a_range_of_one_day(
        times_us in prop::collection::vec(86_398_000_000i64..86_403_000_000, 1..20),
        other_us in 86_398_000_000i64..86_403_000_000,
    ) {
        let entries: Vec<_> = times_us.iter().map(|ts_us| bust("A", *ts_us)).collect();
        let other = TradeTime::of_us(other_us);
        let is_match = times_us.iter().any(|ts_us| TradeTime::of_us(*ts_us).matches(other));
        let ranges = ranges(&entries);
        let is_read = ranges.iter().any(|(_, range)| range.from_us <= other_us && other_us < range.to_us);
        prop_assert!(is_read || !is_match);
        prop_assert!(ranges.iter().all(|(_, range)| day_us(range.from_us) == day_us(range.to_us - 1)));
    }
}
