//! The history that a load results in, and its comparison with the database: every candle of every timeframe, every
//! sum, every dead letter.

use std::collections::{BTreeMap, BTreeSet};

use storage_core::domain::time::rfc3339;
use storage_core::terminal::thousands;

use crate::load::feed::{self, Minutes};
use crate::load::{Load, MARK};
use crate::oracle::{Bars, Trade, compare, counted, group, lots, width_us};
use crate::pipeline::Pipeline;

/// The timeframes that the history has.
pub const TIMEFRAMES: [&str; 6] = ["1m", "5m", "15m", "1h", "4h", "1d"];

/// Number of differences in a report.
const SHOWN: usize = 3;

/// Number and summed lots of the ticks of each symbol.
type Sums = BTreeMap<String, (i64, i128)>;

/// The complete content of the history.
#[derive(Clone, Debug)]
pub struct Expected {
    candles: Vec<(&'static str, Bars)>,
    ticks: Sums,
    dead_letters: BTreeMap<String, &'static str>,
    minutes: BTreeMap<String, Minutes>,
    /// Times in µs since 1970 between which `minutes` lie.
    range: (i64, i64),
}

impl Expected {
    /// Computes the history that a load results in.
    pub fn of(load: &Load) -> Self {
        let trades = load.trades();
        let mut traded: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
        let candles = group(&trades, width_us("1m"));
        for (symbol, start_us) in candles.keys() {
            traded.entry(symbol).or_default().insert(*start_us);
        }
        Self {
            minutes: feed::minutes(&load.heartbeats, &traded),
            range: feed::range(&load.heartbeats),
            candles: TIMEFRAMES
                .map(|timeframe| (timeframe, group(&trades, width_us(timeframe))))
                .to_vec(),
            ticks: sums(&counted(&trades)),
            dead_letters: load.dead_letters(),
        }
    }

    /// Returns the number of candles of all timeframes.
    pub fn candles(&self) -> usize {
        self.candles.iter().map(|(_, bars)| bars.len()).sum()
    }

    /// Returns the number of distinct ticks.
    pub fn ticks(&self) -> i64 {
        self.ticks.values().map(|(count, _)| count).sum()
    }

    /// Returns the volume of all symbols, in lots.
    pub fn lots(&self) -> i128 {
        self.ticks.values().map(|(_, lots)| lots).sum()
    }

    /// Returns the number of bad entries.
    pub fn dead_letters(&self) -> usize {
        self.dead_letters.len()
    }
}

fn sums(trades: &[Trade]) -> Sums {
    let mut sums = Sums::new();
    for trade in trades {
        let (count, sum) = sums.entry(trade.symbol.clone()).or_default();
        *count += 1;
        *sum += lots(&trade.qty);
    }
    sums
}

impl Pipeline {
    /// Compares the history with `expected`; the error lists the first differences.
    pub async fn holds(&self, expected: &Expected) -> Result<(), String> {
        self.ticks_are(expected).await?;
        self.dead_letters_are(expected).await?;
        self.candles_are(expected).await
    }

    /// Checks that `ticks` has every distinct tick once, by the number and the sum of each symbol.
    pub async fn ticks_are(&self, expected: &Expected) -> Result<(), String> {
        let rows = self
            .rows("SELECT symbol, count(*), sum(lots) FROM ticks GROUP BY symbol")
            .await?;
        let sum = |row: Vec<String>| {
            let number = |column: usize| row[column].parse::<i128>().expect("a number");
            let count = i64::try_from(number(1)).expect("a count");
            (row[0].clone(), (count, number(2)))
        };
        let found: Sums = rows.into_iter().map(sum).collect();
        let symbols: BTreeSet<_> = expected.ticks.keys().chain(found.keys()).collect();
        let differences = symbols
            .into_iter()
            .filter(|symbol| expected.ticks.get(*symbol) != found.get(*symbol))
            .map(|symbol| {
                format!(
                    "ticks of {symbol}, number and lots: expected {:?}, found {:?}",
                    expected.ticks.get(symbol),
                    found.get(symbol)
                )
            });
        report(differences.collect())
    }

    /// Compares every candle of every timeframe.
    pub async fn candles_are(&self, expected: &Expected) -> Result<(), String> {
        for (timeframe, bars) in &expected.candles {
            let found = self.history(timeframe).await?;
            compare(bars, &found).map_err(|differences| format!("{timeframe}: {differences}"))?;
        }
        Ok(())
    }

    /// Checks that `aggregator-admin gaps` tells traded, quiet and missing minutes of every symbol apart.
    pub async fn gaps_are(&self, expected: &Expected) -> Result<(), String> {
        let [from, to] = [expected.range.0, expected.range.1].map(rfc3339);
        let mut differences = Vec::new();
        for (symbol, Minutes { traded, quiet, missing }) in &expected.minutes {
            let found = self
                .command("aggregator-admin", &["gaps", symbol, "--from", &from, "--to", &to])
                .await;
            let counts = format!(
                "minutes of {symbol}: {} traded, {} quiet, {} missing, 0 not expected",
                thousands(*traded as i128),
                thousands(*quiet as i128),
                thousands(*missing as i128)
            );
            if !found.stdout.contains(&counts) {
                differences.push(format!("expected «{counts}», found {found:?}"));
            }
        }
        report(differences)
    }

    /// Checks that every bad entry is a dead letter with its reason, and that there are no others. A bad entry that was
    /// sent again may be several dead letters.
    pub async fn dead_letters_are(&self, expected: &Expected) -> Result<(), String> {
        let sql = format!("SELECT fields->>'{MARK}', stream, entry_id, reason FROM dead_letters");
        let (mut differences, mut found) = (Vec::new(), BTreeSet::new());
        for row in self.rows(&sql).await? {
            let [mark, stream, id, reason] = row.try_into().expect("four columns");
            match expected.dead_letters.get(&mark) {
                Some(part) if reason.contains(part) => {
                    found.insert(mark);
                }
                Some(part) => differences.push(format!("dead letter {mark}: expected «{part}», found «{reason}»")),
                None => differences.push(format!("dead letter {stream} {id} was not expected: {reason}")),
            }
        }
        let missing = expected.dead_letters.iter().filter(|(mark, _)| !found.contains(*mark));
        differences.extend(missing.map(|(mark, part)| format!("no dead letter {mark}: {part}")));
        report(differences)
    }
}

fn report(differences: Vec<String>) -> Result<(), String> {
    if differences.is_empty() {
        return Ok(());
    }
    let shown = &differences[..differences.len().min(SHOWN)];
    Err(format!("{} differences:\n{}", differences.len(), shown.join("\n")))
}
