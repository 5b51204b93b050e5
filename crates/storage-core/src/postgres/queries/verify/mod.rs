//! Comparison of candles with their source: minutes with their ticks, larger candles with their minutes. The SQL is
//! independent of the code that it checks.
//!
//! [`differing_hours`] compares hashes per timeframe, symbol and hour, which the server computes. [`differences`]
//! compares the single candles of such hours. Candles before the border from which their source is complete (see
//! [`completeness`]) must contain at least the rows that are left; [`lacking_rows`] finds those that do not.

pub mod hot;
mod sql;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::completeness;
use super::hypertables::{chunk_ranges, hypertable_of};
use crate::domain::symbol::Symbol;
use crate::domain::time::{TimeRange, to_datetime};
use crate::domain::timeframe::Timeframe;
use crate::postgres::columns::TimeValue;
use crate::postgres::edition::Edition;

/// A candle that differs from the one computed from its source.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Difference {
    /// Symbol that was traded. A row that was written by hand may have a text that is not a [`Symbol`].
    #[diesel(sql_type = Text)]
    pub symbol: String,
    /// Start of the bucket.
    #[diesel(sql_type = Timestamptz)]
    pub time: DateTime<Utc>,
    /// `(open,high,low,close,volume in lots,trades)` of the history, and the number of rows if it is more than one;
    /// `None` if there is no row.
    #[diesel(sql_type = Nullable<Text>)]
    pub found: Option<String>,
    /// The same, computed from the source; `None` if the source has no rows.
    #[diesel(sql_type = Nullable<Text>)]
    pub expected: Option<String>,
    /// Number of trades of the history.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub found_trades: Option<i64>,
    /// Number of trades of the source.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub expected_trades: Option<i64>,
    /// Last stream entry that the candle of the history counts.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub found_revision: Option<i64>,
    /// Last stream entry of the source.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub expected_revision: Option<i64>,
    /// `true` if the volume of a minute's ticks exceeds a bigint, so that no candle can hold `expected`.
    #[diesel(sql_type = Bool)]
    pub is_beyond_bigint: bool,
}

impl Difference {
    /// Returns `true` if only the revisions differ.
    pub fn is_of_revision(&self) -> bool {
        self.found == self.expected
    }
}

/// Candles of a symbol that start in the same hour and whose hash differs from that of their source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hour {
    /// Symbol of the candles.
    pub symbol: String,
    /// Start of the hour.
    pub start: DateTime<Utc>,
}

/// Result of comparing the candles of one timeframe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison<D> {
    /// Number of candles in the history or in its source.
    pub compared: i64,
    /// Hours or candles that differ.
    pub differing: Vec<D>,
}

impl<D> Default for Comparison<D> {
    fn default() -> Self {
        Self {
            compared: 0,
            differing: Vec::new(),
        }
    }
}

/// Borders from which candles are compared with their source, in µs since 1970.
#[derive(Clone, Debug)]
pub struct Borders {
    /// Start of the first bucket whose source is complete.
    source: BTreeMap<Timeframe, i64>,
    /// Start of the first day of which no candle was dropped.
    own: BTreeMap<Timeframe, i64>,
}

impl Borders {
    /// Reads the borders.
    pub async fn read(connection: &mut AsyncPgConnection) -> QueryResult<Self> {
        let (mut source, mut own) = (BTreeMap::new(), BTreeMap::new());
        for timeframe in Timeframe::ALL {
            let from_us = completeness::first_bucket(connection, source_table(timeframe), timeframe).await?;
            source.insert(timeframe, from_us);
            let from_us = completeness::first_bucket(connection, timeframe.table(), Timeframe::D1).await?;
            own.insert(timeframe, from_us);
        }
        Ok(Self { source, own })
    }

    /// Returns the start of the first bucket that can be computed from its source.
    fn source_us(&self, timeframe: Timeframe) -> i64 {
        self.source.get(&timeframe).copied().unwrap_or(i64::MIN)
    }

    /// Returns the start of the first bucket that is compared with its source in full.
    pub fn compared_us(&self, timeframe: Timeframe) -> i64 {
        self.source_us(timeframe).max(self.own_us(timeframe))
    }

    fn own_us(&self, timeframe: Timeframe) -> i64 {
        self.own.get(&timeframe).copied().unwrap_or(i64::MIN)
    }
}

/// Returns the table from which the candles of `timeframe` are computed.
pub fn source_table(timeframe: Timeframe) -> &'static str {
    timeframe.source().map_or("ticks", Timeframe::table)
}

#[derive(QueryableByName)]
struct HourRow {
    #[diesel(sql_type = Text)]
    timeframe: String,
    #[diesel(sql_type = Nullable<Text>)]
    symbol: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    hour: Option<DateTime<Utc>>,
    #[diesel(sql_type = BigInt)]
    compared: i64,
}

/// Compares the hashes of the candles of `timeframes` that start in `range`, optionally of one symbol. `timeframes` is
/// either 1m alone or the larger ones, smallest first, and both ends of `range` are bucket borders of the largest.
pub async fn differing_hours(
    connection: &mut AsyncPgConnection,
    borders: &Borders,
    timeframes: &[Timeframe],
    symbol: Option<&Symbol>,
    range: TimeRange,
) -> QueryResult<BTreeMap<Timeframe, Comparison<Hour>>> {
    let mut found: BTreeMap<Timeframe, Comparison<Hour>> = BTreeMap::new();
    let rows: Vec<HourRow> = sql_query(sql::differing_hours(borders, timeframes))
        .bind::<Timestamptz, _>(to_datetime(range.from_us))
        .bind::<Timestamptz, _>(to_datetime(range.to_us))
        .bind::<Nullable<Array<Text>>, _>(symbol.map(|symbol| vec![symbol.as_str()]))
        .get_results(connection)
        .await?;
    for row in rows {
        let Some(timeframe) = timeframes.iter().find(|timeframe| timeframe.label() == row.timeframe) else {
            continue;
        };
        let comparison = found.entry(*timeframe).or_default();
        comparison.compared += row.compared;
        let hour = row.symbol.zip(row.hour);
        comparison
            .differing
            .extend(hour.map(|(symbol, start)| Hour { symbol, start }));
    }
    Ok(found)
}

/// Compares the single candles of `hours`, which lie in `range`. Returns at most `limit` differences.
pub async fn differences(
    connection: &mut AsyncPgConnection,
    borders: &Borders,
    timeframe: Timeframe,
    hours: &[Hour],
    range: TimeRange,
    limit: i32,
) -> QueryResult<Vec<Difference>> {
    if hours.is_empty() {
        return Ok(Vec::new());
    }
    let mut symbols: Vec<&str> = hours.iter().map(|hour| hour.symbol.as_str()).collect();
    symbols.dedup();
    sql_query(sql::differences(borders, timeframe))
        .bind::<Timestamptz, _>(to_datetime(range.from_us))
        .bind::<Timestamptz, _>(to_datetime(range.to_us))
        .bind::<Nullable<Array<Text>>, _>(Some(symbols))
        .bind::<Array<Text>, _>(hours.iter().map(|hour| hour.symbol.as_str()).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(hours.iter().map(|hour| hour.start).collect::<Vec<_>>())
        .bind::<Integer, _>(limit)
        .get_results(connection)
        .await
}

/// Returns at most `limit` candles in `range`, optionally of one symbol, that start before the border of their source
/// and lack rows that are left of it.
pub async fn lacking_rows(
    connection: &mut AsyncPgConnection,
    borders: &Borders,
    timeframe: Timeframe,
    symbol: Option<&Symbol>,
    range: TimeRange,
    limit: i32,
) -> QueryResult<Vec<Difference>> {
    let until_us = range.to_us.min(borders.source_us(timeframe));
    let from_us = range.from_us.max(borders.own_us(timeframe));
    if from_us >= until_us {
        return Ok(Vec::new());
    }
    sql_query(sql::lacking_rows(timeframe))
        .bind::<Timestamptz, _>(to_datetime(from_us))
        .bind::<Timestamptz, _>(to_datetime(until_us))
        .bind::<Nullable<Array<Text>>, _>(symbol.map(|symbol| vec![symbol.as_str()]))
        .bind::<Integer, _>(limit)
        .get_results(connection)
        .await
}

/// Compares the candles of `timeframe` that start in `range`, optionally of one symbol, by the rules of this module.
/// Both ends of `range` must be bucket borders.
pub async fn compare(
    connection: &mut AsyncPgConnection,
    timeframe: Timeframe,
    symbol: Option<&Symbol>,
    range: TimeRange,
) -> QueryResult<Comparison<Difference>> {
    let borders = Borders::read(connection).await?;
    let upto = Timeframe::ALL.iter().position(|other| *other == timeframe).unwrap_or(0);
    let timeframes = match timeframe {
        Timeframe::M1 => &Timeframe::ALL[..1],
        _ => &Timeframe::ALL[1..=upto],
    };
    let mut hours = differing_hours(connection, &borders, timeframes, symbol, range).await?;
    let Comparison { compared, differing } = hours.remove(&timeframe).unwrap_or_default();
    let mut differences = differences(connection, &borders, timeframe, &differing, range, i32::MAX).await?;
    differences.extend(lacking_rows(connection, &borders, timeframe, symbol, range, i32::MAX).await?);
    Ok(Comparison {
        compared,
        differing: differences,
    })
}

/// Returns the ranges of time that the chunks of the ticks and of the candles of `timeframes` cover, merged.
pub async fn extent(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    timeframes: &[Timeframe],
) -> QueryResult<Vec<TimeRange>> {
    let mut ranges = chunk_ranges(connection, "ticks").await?;
    for timeframe in timeframes {
        let table = hypertable_of(connection, edition, *timeframe).await?;
        ranges.extend(chunk_ranges(connection, &table).await?);
    }
    Ok(TimeRange::merge(ranges, 0))
}

/// Returns the starts of the minutes of `symbol` in `range` that have ticks, in µs since 1970, oldest first.
pub async fn minutes_with_ticks(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    range: TimeRange,
) -> QueryResult<Vec<i64>> {
    let minutes: Vec<TimeValue> = sql_query(
        "SELECT DISTINCT time_bucket(INTERVAL '1 minute', time) AS value FROM ticks
         WHERE symbol = $1 AND time >= $2 AND time < $3 ORDER BY 1",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(range.from_us))
    .bind::<Timestamptz, _>(to_datetime(range.to_us))
    .get_results(connection)
    .await?;
    Ok(minutes.into_iter().filter_map(TimeValue::us).collect())
}
