//! Writing the entries of a tick stream: each trade once into `ticks`, with its current version, and all versions of
//! amended trades into `tick_versions`.
//!
//! A unique key can't express the [identity of a trade](TradeTime), so the trades that the entries may repeat are read
//! first, under a lock of the partition. They are read by ranges of event time: around the entries themselves, where a
//! stream in order has written nothing yet, and at the whole seconds before them. Each day is read separately, so that
//! the plan excludes the chunks of other days.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use diesel::result::Error::SerializationError;
use diesel::sql_types::Integer;
use diesel::{QueryResult, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::tick_versions::{self, VersionRow};
use super::ticks::{self, Key, TickRow};
use crate::domain::amendment::{Amendment, Values, Versions};
use crate::domain::decimal::Decimal;
use crate::domain::lots::Lots;
use crate::domain::rejection::Rejection;
use crate::domain::symbol::Symbol;
use crate::domain::time::{TimeRange, rfc3339};
use crate::domain::timeframe::Timeframe;
use crate::domain::trade_identity::TradeTime;

#[cfg(test)]
mod tests;

/// An entry of a tick stream.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// A trade.
    Trade(TickRow),
    /// A correction or a bust, with its quantity rounded to whole lots.
    Amendment(Amendment),
}

/// Result of writing an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is a new trade, or the first entry of a trade of which a later one was written before.
    New,
    /// It repeats an earlier entry.
    Unchanged,
    /// It amends the trade with this event time in µs since 1970, or has amended it before.
    Amended(i64),
    /// It is not applied.
    Rejected(Rejection),
}

/// Class of the advisory locks of [`write`], an arbitrary number that no other lock uses.
const LOCKS: i32 = 0x7472_6164;

/// Maximum gap between two event times of a symbol that are read as one range.
const MAX_GAP_US: i64 = 1_000_000;

const MS_US: i64 = 1_000;
const SECOND_US: i64 = 1_000_000;

/// Symbol, trade ID and second, which the entries of one trade have in common.
type Place<'a> = (&'a Symbol, Key, i64);

/// A trade of `ticks` or `tick_versions`, or a new one.
struct Trade {
    ts_us: i64,
    versions: Versions,
    is_in_ticks: bool,
    /// Number of its versions in `tick_versions`.
    recorded: usize,
    is_changed: bool,
}

impl Write {
    fn place(&self) -> (Place<'_>, i64) {
        let (symbol, key, ts_us) = match self {
            Self::Trade(row) => (&row.symbol, row.key.clone(), row.ts_us),
            Self::Amendment(amendment) => (&amendment.symbol, Key::of_id(&amendment.trade_id), amendment.ts_us),
        };
        ((symbol, key, TradeTime::of_us(ts_us).second()), ts_us)
    }
}

/// Writes entries of the stream of `partition`, which are in stream order, and returns the result of each. `decimals`
/// returns the volume decimals of a symbol. Writing entries again changes nothing.
pub async fn write(
    connection: &mut AsyncPgConnection,
    partition: u16,
    entries: &[Write],
    decimals: impl Fn(&Symbol) -> u8,
) -> QueryResult<Vec<Written>> {
    lock(connection, partition).await?;
    let stored = Stored::read(connection, entries).await?;
    let mut trades = stored.trades(&decimals);
    let results = entries
        .iter()
        .map(|entry| apply(&mut trades, entry, &decimals))
        .collect();
    Changes::of(&trades, &decimals)?.write(connection).await?;
    Ok(results)
}

/// Returns the result that writing an entry would have. `decimals` are the volume decimals of its symbol.
pub async fn judge(connection: &mut AsyncPgConnection, entry: &Write, decimals: u8) -> QueryResult<Written> {
    let stored = Stored::read(connection, std::slice::from_ref(entry)).await?;
    Ok(apply(&mut stored.trades(|_| decimals), entry, |_| decimals))
}

/// A trade with its versions.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundTrade {
    /// Event time in µs since 1970.
    pub ts_us: i64,
    /// The versions.
    pub versions: Versions,
}

/// Finds the trade that `amendment` names. `decimals` are the volume decimals of its symbol.
pub async fn find(
    connection: &mut AsyncPgConnection,
    amendment: &Amendment,
    decimals: u8,
) -> QueryResult<Option<FoundTrade>> {
    let entry = Write::Amendment(amendment.clone());
    let stored = Stored::read(connection, std::slice::from_ref(&entry)).await?;
    let (place, ts_us) = entry.place();
    let mut trades = stored.trades(|_| decimals).remove(&place).unwrap_or_default();
    let at = position(&trades, ts_us);
    Ok(at.map(|at| trades.swap_remove(at)).map(|trade| FoundTrade {
        ts_us: trade.ts_us,
        versions: trade.versions,
    }))
}

/// Returns the index of the trade that an entry at `ts_us` repeats or amends: of several in one second the one of the
/// same millisecond, else the first.
fn position(trades: &[Trade], ts_us: i64) -> Option<usize> {
    let time = TradeTime::of_us(ts_us);
    let of = |trade: &Trade| TradeTime::of_us(trade.ts_us);
    let matching = (0..trades.len()).filter(|at| of(&trades[*at]).matches(time));
    matching.min_by_key(|at| (of(&trades[*at]) != time, trades[*at].versions.original().revision))
}

/// Applies an entry to the trades.
fn apply<'a>(
    trades: &mut HashMap<Place<'a>, Vec<Trade>>,
    entry: &'a Write,
    decimals: impl Fn(&Symbol) -> u8,
) -> Written {
    let (place, ts_us) = entry.place();
    let trades = trades.entry(place).or_default();
    let at = position(trades, ts_us);
    match entry {
        Write::Trade(row) => write_trade(trades, at, row, decimals(&row.symbol)),
        Write::Amendment(amendment) => amend(at.map(|at| &mut trades[at]), amendment),
    }
}

/// Makes other writers of the partition's trades wait until the end of this transaction.
async fn lock(connection: &mut AsyncPgConnection, partition: u16) -> QueryResult<()> {
    sql_query("SELECT pg_advisory_xact_lock($1, $2)")
        .bind::<Integer, _>(LOCKS)
        .bind::<Integer, _>(i32::from(partition))
        .execute(connection)
        .await?;
    Ok(())
}

/// Rows of the trades that entries may repeat.
#[derive(Default)]
struct Stored {
    ticks: Vec<TickRow>,
    versions: Vec<VersionRow>,
}

impl Stored {
    async fn read(connection: &mut AsyncPgConnection, entries: &[Write]) -> QueryResult<Self> {
        let ranges = ranges(entries);
        Ok(Self {
            ticks: ticks::in_ranges(connection, &ranges).await?,
            versions: tick_versions::in_ranges(connection, &ranges).await?,
        })
    }

    /// Collects the trades.
    fn trades(&self, decimals: impl Fn(&Symbol) -> u8) -> HashMap<Place<'_>, Vec<Trade>> {
        let mut amended: BTreeMap<(&Symbol, &Key, i64), Vec<_>> = BTreeMap::new();
        for row in &self.versions {
            let versions = amended.entry((&row.symbol, &row.key, row.ts_us)).or_default();
            versions.push(row.version());
        }
        let mut trades: HashMap<Place, Vec<Trade>> = HashMap::new();
        for ((symbol, key, ts_us), versions) in amended {
            let recorded = versions.len();
            let trade = Versions::of(versions).map(|versions| Trade {
                ts_us,
                versions,
                is_in_ticks: false,
                recorded,
                is_changed: false,
            });
            trades.entry(place(symbol, key, ts_us)).or_default().extend(trade);
        }
        for row in &self.ticks {
            let trades = trades.entry(place(&row.symbol, &row.key, row.ts_us)).or_default();
            match trades.iter_mut().find(|trade| trade.ts_us == row.ts_us) {
                Some(trade) => trade.is_in_ticks = true,
                None => trades.push(Trade {
                    ts_us: row.ts_us,
                    versions: Versions::new(row.revision, values(row, decimals(&row.symbol))),
                    is_in_ticks: true,
                    recorded: 0,
                    is_changed: false,
                }),
            }
        }
        trades
    }
}

fn place<'a>(symbol: &'a Symbol, key: &Key, ts_us: i64) -> Place<'a> {
    (symbol, key.clone(), TradeTime::of_us(ts_us).second())
}

fn values(row: &TickRow, decimals: u8) -> Values {
    Values {
        price: row.price,
        qty: Decimal::from_lots(row.lots.into(), decimals),
        side: row.side,
    }
}

/// Adds a trade to those with the same place, unless it repeats the one at `at`.
fn write_trade(trades: &mut Vec<Trade>, at: Option<usize>, row: &TickRow, decimals: u8) -> Written {
    let values = values(row, decimals);
    let Some(at) = at else {
        trades.push(Trade {
            ts_us: row.ts_us,
            versions: Versions::new(row.revision, values),
            is_in_ticks: false,
            recorded: 0,
            is_changed: true,
        });
        return Written::New;
    };
    let trade = &mut trades[at];
    let is_amended = trade.versions.iter().nth(1).is_some();
    if row.revision < trade.versions.original().revision && !is_amended {
        trade.versions = Versions::new(row.revision, values);
        trade.is_changed = true;
        return Written::New;
    }
    // The row of an amended trade was deleted by hand.
    let lacks_row = !trade.is_in_ticks && !trade.is_changed && trade.versions.current().values.is_some();
    match trade.versions.repeat(values.price, values.qty) {
        Ok(()) if lacks_row => {
            trade.is_changed = true;
            Written::New
        }
        Ok(()) => Written::Unchanged,
        Err(reason) => Written::Rejected(reason),
    }
}

fn amend(trade: Option<&mut Trade>, amendment: &Amendment) -> Written {
    let Some(trade) = trade else {
        return Written::Rejected(Rejection::UnknownTrade {
            trade_id: amendment.trade_id.to_string(),
            time: rfc3339(amendment.ts_us),
            kind: amendment.kind(),
        });
    };
    match trade.versions.amend(amendment) {
        Ok(is_changed) => {
            trade.is_changed |= is_changed;
            Written::Amended(trade.ts_us)
        }
        Err(reason) => Written::Rejected(reason),
    }
}

/// Rows to write.
#[derive(Default)]
struct Changes {
    new: Vec<TickRow>,
    corrected: Vec<TickRow>,
    removed: Vec<(Symbol, i64, Key)>,
    versions: Vec<VersionRow>,
}

impl Changes {
    /// Collects the rows of the changed trades.
    fn of(trades: &HashMap<Place<'_>, Vec<Trade>>, decimals: impl Fn(&Symbol) -> u8) -> QueryResult<Self> {
        let mut changes = Self::default();
        for ((symbol, key, _), trades) in trades {
            for trade in trades.iter().filter(|trade| trade.is_changed) {
                let (first, current) = (trade.versions.original(), trade.versions.current());
                let is_amended = first != current;
                if let Some(values) = current.values {
                    let row = TickRow {
                        ts_us: trade.ts_us,
                        symbol: (*symbol).clone(),
                        price: values.price,
                        lots: lots(values.qty, decimals(symbol))?,
                        side: values.side,
                        revision: first.revision,
                        key: key.clone(),
                    };
                    match is_amended && trade.is_in_ticks {
                        true => changes.corrected.push(row),
                        false => changes.new.push(row),
                    }
                } else if trade.is_in_ticks {
                    changes.removed.push(((*symbol).clone(), trade.ts_us, key.clone()));
                }
                if is_amended {
                    let unrecorded = trade.versions.iter().skip(trade.recorded);
                    let rows = unrecorded.map(|version| VersionRow::new(symbol, trade.ts_us, key, version));
                    changes.versions.extend(rows);
                }
            }
        }
        Ok(changes)
    }

    async fn write(&self, connection: &mut AsyncPgConnection) -> QueryResult<()> {
        for row in &self.corrected {
            ticks::correct(connection, row).await?;
        }
        for (symbol, ts_us, key) in &self.removed {
            ticks::remove(connection, symbol, *ts_us, key).await?;
        }
        ticks::insert(connection, &self.new).await?;
        tick_versions::insert(connection, &self.versions).await
    }
}

/// Converts a quantity that was rounded to whole lots.
fn lots(qty: Decimal, decimals: u8) -> QueryResult<i64> {
    let lots = Lots::of(qty, decimals).map(|lots| lots.count);
    lots.map_err(|_| SerializationError(format!("qty {qty} does not fit lots of 10^-{decimals}").into()))
}

/// Returns the ranges of event time in which the trades are that the entries may repeat.
fn ranges(entries: &[Write]) -> Vec<(&Symbol, TimeRange)> {
    let mut around: BTreeMap<(&Symbol, i64), i64> = BTreeMap::new();
    let mut seconds = BTreeSet::new();
    for entry in entries {
        let ((symbol, _, second), ts_us) = entry.place();
        let (from_us, second_us) = (TradeTime::of_us(ts_us).ms() * MS_US, second * SECOND_US);
        let is_whole_second = from_us == second_us;
        let to_us = from_us + if is_whole_second { SECOND_US } else { MS_US };
        let end_us = around.entry((symbol, from_us)).or_default();
        *end_us = to_us.max(*end_us);
        seconds.insert((symbol, second_us));
    }
    let mut ranges: Vec<(&Symbol, TimeRange)> = Vec::new();
    for ((symbol, from_us), to_us) in around {
        match ranges.last_mut() {
            Some((last_symbol, last))
                if *last_symbol == symbol
                    && from_us - last.to_us <= MAX_GAP_US
                    && day_us(from_us) == day_us(last.from_us) =>
            {
                last.to_us = last.to_us.max(to_us);
            }
            _ => ranges.push((symbol, TimeRange { from_us, to_us })),
        }
    }
    let is_covered = |(symbol, from_us): &(&Symbol, i64)| {
        let after = ranges.partition_point(|(other, range)| (*other, range.from_us) <= (*symbol, *from_us));
        let before = after.checked_sub(1).map(|at| &ranges[at]);
        before.is_some_and(|(other, range)| other == symbol && *from_us < range.to_us)
    };
    seconds.retain(|second| !is_covered(second));
    ranges.extend(seconds.into_iter().map(|(symbol, from_us)| {
        let to_us = from_us + MS_US;
        (symbol, TimeRange { from_us, to_us })
    }));
    ranges
}

fn day_us(ts_us: i64) -> i64 {
    Timeframe::D1.bucket_start_us(ts_us)
}
