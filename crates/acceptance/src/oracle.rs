//! The expected candles, computed independently of the pipeline: trades in order of arrival, grouped by bucket.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use chrono::DateTime;

/// Lots per unit: 8 decimals.
pub const DECIMALS: usize = 8;

/// Kind of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A trade.
    #[default]
    Trade,
    /// A correction of the trade with the same identity.
    Correction,
    /// The bust of the trade with the same identity.
    Bust,
}

/// A trade, or an amendment of one.
#[derive(Clone, Debug, PartialEq)]
pub struct Trade {
    /// The kind.
    pub kind: Kind,
    /// The symbol.
    pub symbol: String,
    /// Event time, µs since 1970.
    pub ts_us: i64,
    /// Price as text, as the producer sends it.
    pub price: String,
    /// Quantity as text, as the producer sends it.
    pub qty: String,
    /// The exchange's ID of the trade.
    pub id: Option<String>,
}

/// A candle with its volume in lots of 8 decimals.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Price of the first trade.
    pub open: f64,
    /// Highest price.
    pub high: f64,
    /// Lowest price.
    pub low: f64,
    /// Price of the last trade.
    pub close: f64,
    /// Sum of quantities.
    pub lots: i128,
    /// Number of trades.
    pub trades: i64,
}

impl Bar {
    /// Parses `open, high, low, close, volume, trades`; `lots` converts the volume.
    pub fn parse<T: AsRef<str>>(columns: &[T], lots: impl Fn(&str) -> i128) -> Self {
        let price = |column: usize| columns[column].as_ref().parse().expect("a price");
        Self {
            open: price(0),
            high: price(1),
            low: price(2),
            close: price(3),
            lots: lots(columns[4].as_ref()),
            trades: columns[5].as_ref().parse().expect("a count"),
        }
    }
}

/// Candles by symbol and start in µs.
pub type Bars = BTreeMap<(String, i64), Bar>;

/// Returns the trades that `entries` result in, in order of their first entries. Two entries are the same trade if they
/// have the same symbol and ID and the same time: in ms, or in seconds if one of them has no better time. Of a trade
/// the first entry counts, then each correction to values that it never had before, until it is busted.
pub fn counted(entries: &[Trade]) -> Vec<Trade> {
    struct Known {
        trade: Trade,
        had: Vec<(String, String)>,
        busted: bool,
    }
    let mut all: Vec<Known> = Vec::new();
    let mut by_id: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
    for entry in entries {
        let same_id = entry.id.as_deref().map(|id| {
            by_id
                .entry((&entry.symbol, id.strip_suffix(".0").unwrap_or(id)))
                .or_default()
        });
        let earlier = same_id.as_ref().and_then(|known| {
            let matching = known
                .iter()
                .filter(|at| is_same_time(all[**at].trade.ts_us, entry.ts_us));
            matching.min_by_key(|at| all[**at].trade.ts_us / 1_000 != entry.ts_us / 1_000)
        });
        let values = (entry.price.clone(), entry.qty.clone());
        match (entry.kind, earlier) {
            (Kind::Trade, None) => {
                same_id.into_iter().for_each(|known| known.push(all.len()));
                all.push(Known {
                    trade: entry.clone(),
                    had: vec![values],
                    busted: false,
                });
            }
            (Kind::Correction, Some(at)) if !all[*at].busted && !all[*at].had.contains(&values) => {
                let known = &mut all[*at];
                (known.trade.price, known.trade.qty) = values.clone();
                known.had.push(values);
            }
            (Kind::Bust, Some(at)) => all[*at].busted = true,
            _ => {}
        }
    }
    let counted = all.into_iter().filter(|known| !known.busted);
    counted.map(|known| known.trade).collect()
}

fn is_same_time(a_us: i64, b_us: i64) -> bool {
    let [a_ms, b_ms] = [a_us, b_us].map(|us| us / 1_000);
    let is_coarse = |ms: i64| ms % 1_000 == 0;
    a_ms == b_ms || a_ms / 1_000 == b_ms / 1_000 && (is_coarse(a_ms) || is_coarse(b_ms))
}

/// Groups the trades that `entries` result in into buckets of `width_us`.
pub fn group(entries: &[Trade], width_us: i64) -> Bars {
    let mut in_order = counted(entries);
    in_order.sort_by_key(|trade| trade.ts_us); // stable: the order of arrival decides between equal times
    let mut bars = Bars::new();
    for trade in in_order {
        let price: f64 = trade.price.parse().expect("a price");
        let start_us = trade.ts_us - trade.ts_us.rem_euclid(width_us);
        let new = Bar {
            open: price,
            high: price,
            low: price,
            close: price,
            lots: 0,
            trades: 0,
        };
        let bar = bars.entry((trade.symbol.clone(), start_us)).or_insert(new);
        bar.high = bar.high.max(price);
        bar.low = bar.low.min(price);
        bar.close = price;
        bar.lots += lots(&trade.qty);
        bar.trades += 1;
    }
    bars
}

/// Converts decimal text to lots, exactly.
pub fn lots(units: &str) -> i128 {
    let (whole, fraction) = units.split_once('.').unwrap_or((units, ""));
    let (kept, rest) = fraction.split_at(fraction.len().min(DECIMALS));
    assert!(rest.bytes().all(|digit| digit == b'0'), "{units} is finer than a lot");
    format!("{whole}{kept:0<DECIMALS$}").parse().expect("decimal text")
}

/// Compares two sets of candles; the error lists the first differences.
pub fn compare(expected: &Bars, found: &Bars) -> Result<(), String> {
    let mut differences = Vec::new();
    for key in expected.keys().chain(found.keys()).collect::<BTreeSet<_>>() {
        let (wanted, actual) = (expected.get(key), found.get(key));
        if wanted != actual {
            let (symbol, start) = (&key.0, time(key.1));
            differences.push(format!("{symbol} {start}: expected {wanted:?}, found {actual:?}"));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    let shown = &differences[..differences.len().min(3)];
    Err(format!(
        "{} of {} candles differ, {} found:\n{}",
        differences.len(),
        expected.len(),
        found.len(),
        shown.join("\n")
    ))
}

/// Reads the trades of a Binance aggregate-trade file with times in ms.
pub fn binance_trades(file: &Path, symbol: &str) -> Vec<Trade> {
    let text = fs::read_to_string(file).expect("a trade file");
    let rows = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let trades = rows
        .filter(|row| row[0].starts_with(|first: char| first.is_ascii_digit()))
        .map(|row| Trade {
            kind: Kind::Trade,
            symbol: symbol.to_owned(),
            ts_us: row[5].parse::<i64>().expect("ms") * 1_000,
            price: row[1].to_owned(),
            qty: row[2].to_owned(),
            id: Some(row[0].to_owned()),
        });
    trades.collect()
}

/// Reads candles of another program: `time,open,high,low,close,volume,trades`.
pub fn candle_file(file: &Path, symbol: &str) -> Bars {
    let text = fs::read_to_string(file).expect("a candle file");
    let bar = |line: &str| {
        let row: Vec<&str> = line.split(',').collect();
        ((symbol.to_owned(), micros(row[0])), Bar::parse(&row[1..], lots))
    };
    text.lines().skip(1).map(bar).collect()
}

/// Parses an RFC 3339 time and returns it in µs since 1970.
pub fn micros(time: &str) -> i64 {
    DateTime::parse_from_rfc3339(time).expect("a time").timestamp_micros()
}

/// Formats µs since 1970 as RFC 3339.
pub fn time(us: i64) -> String {
    DateTime::from_timestamp_micros(us).expect("a time").to_rfc3339()
}

/// Returns the width of a timeframe in µs.
pub fn width_us(timeframe: &str) -> i64 {
    let (number, unit) = timeframe.split_at(timeframe.len() - 1);
    let minutes = match unit {
        "m" => 1,
        "h" => 60,
        "d" => 24 * 60,
        _ => panic!("no timeframe: {timeframe}"),
    };
    number.parse::<i64>().expect("a timeframe") * minutes * 60_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corrections_and_busts_apply_once_to_the_trade_with_the_same_identity() {
        let entry = |kind, ts_us, price: &str, id: &str| Trade {
            kind,
            symbol: "A".to_owned(),
            ts_us,
            price: price.to_owned(),
            qty: "1".to_owned(),
            id: Some(id.to_owned()),
        };
        let feed = [
            entry(Kind::Trade, 1_000_123, "1", "7"),
            entry(Kind::Trade, 86_401_000_123, "2", "7"),
            entry(Kind::Trade, 2_000_000, "3", "8"),
            entry(Kind::Correction, 1_000_000, "1.5", "7.0"),
            entry(Kind::Bust, 2_000_500, "0", "8"),
        ];
        let prices = |trades: Vec<Trade>| trades.into_iter().map(|trade| trade.price).collect::<Vec<_>>();
        assert_eq!(prices(counted(&feed)), ["1.5", "2"]);
        assert_eq!(prices(counted(&[&feed[..], &feed[..4]].concat())), ["1.5", "2"]);
    }
}
