//! `candles_1m` as workers write it, and candles of every timeframe as commands read them.

use std::cmp::Ordering;
use std::collections::HashMap;

use chrono::Utc;
use diesel::sql_types::{Array, BigInt, Double, Integer, Text, Timestamptz};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::candle::Candle;
use crate::domain::decimal::Decimal;
use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::time::{TimeRange, to_datetime};
use crate::domain::timeframe::Timeframe;
use crate::postgres::columns::{BoolValue, Micros};

/// A row of `candles_1m`.
#[derive(Clone, Debug, PartialEq, QueryableByName)]
pub struct CandleRow {
    /// Start of the minute in µs since 1970.
    #[diesel(sql_type = Timestamptz, column_name = time, deserialize_as = Micros)]
    pub start_us: i64,
    /// Symbol that was traded.
    #[diesel(sql_type = Text)]
    pub symbol: Symbol,
    /// First price.
    #[diesel(sql_type = Double)]
    pub open: f64,
    /// Highest price.
    #[diesel(sql_type = Double)]
    pub high: f64,
    /// Lowest price.
    #[diesel(sql_type = Double)]
    pub low: f64,
    /// Last price.
    #[diesel(sql_type = Double)]
    pub close: f64,
    /// Volume in lots of the symbol.
    #[diesel(sql_type = BigInt, column_name = volume)]
    pub volume_lots: i64,
    /// Number of trades.
    #[diesel(sql_type = Integer)]
    pub trades: i32,
    /// Last stream entry folded in.
    #[diesel(sql_type = BigInt)]
    pub revision: Revision,
}

impl CandleRow {
    /// Returns the candle of this row, with its volume in units. The row has no times of its ticks: they are those of
    /// the start of the minute.
    pub fn candle(&self, decimals: u8) -> Candle {
        Candle {
            start_us: self.start_us,
            open: self.open,
            high: self.high,
            low: self.low,
            close: self.close,
            volume: Decimal::from_lots(self.volume_lots.into(), decimals),
            trades: self.trades.into(),
            first_us: self.start_us,
            last_us: self.start_us,
            since: Revision::default(),
            revision: self.revision,
        }
    }
}

// Set-returning functions in the SELECT list stream their rows; in FROM the server would first materialize each array
// as a table.
const INSERT_1M: &str = "
INSERT INTO candles_1m (time, symbol, open, high, low, close, volume, trades, revision)
SELECT unnest($1), unnest($2), unnest($3), unnest($4), unnest($5), unnest($6), unnest($7), unnest($8), unnest($9)";

/// Writes the candles of minutes without a row, and returns their number.
pub async fn insert_1m(connection: &mut AsyncPgConnection, rows: &[CandleRow]) -> QueryResult<usize> {
    write_1m(connection, "ON CONFLICT (symbol, time) DO NOTHING", rows).await
}

/// Writes each candle unless its row has a higher revision, or the same one with at least as many trades. `rows` must
/// not contain a minute of a symbol twice. Compressed chunks can be written too. Returns the number of rows written.
pub async fn upsert_1m(connection: &mut AsyncPgConnection, rows: &[CandleRow]) -> QueryResult<usize> {
    let if_newer = "
ON CONFLICT (symbol, time) DO UPDATE SET
    open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
    volume = excluded.volume, trades = excluded.trades, revision = excluded.revision
WHERE (candles_1m.revision, candles_1m.trades) < (excluded.revision, excluded.trades)";
    write_1m(connection, if_newer, rows).await
}

/// Writes `rows` sorted, so that two writers can't deadlock, and as neighbours in the index are the fastest to write.
async fn write_1m(connection: &mut AsyncPgConnection, on_conflict: &str, rows: &[CandleRow]) -> QueryResult<usize> {
    if rows.is_empty() {
        return Ok(0);
    }
    let mut rows: Vec<&CandleRow> = rows.iter().collect();
    rows.sort_by(|a, b| (&a.symbol, a.start_us).cmp(&(&b.symbol, b.start_us)));
    let prices = |price: fn(&CandleRow) -> f64| rows.iter().map(|row| price(row)).collect::<Vec<_>>();
    sql_query(format!("{INSERT_1M} {on_conflict}"))
        .bind::<Array<Timestamptz>, _>(rows.iter().map(|row| to_datetime(row.start_us)).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| row.symbol.as_str()).collect::<Vec<_>>())
        .bind::<Array<Double>, _>(prices(|row| row.open))
        .bind::<Array<Double>, _>(prices(|row| row.high))
        .bind::<Array<Double>, _>(prices(|row| row.low))
        .bind::<Array<Double>, _>(prices(|row| row.close))
        .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.volume_lots).collect::<Vec<_>>())
        .bind::<Array<Integer>, _>(rows.iter().map(|row| row.trades).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.revision.as_i64()).collect::<Vec<_>>())
        .execute(connection)
        .await
}

/// Reads the candle of the minute that starts at `start_us`.
pub async fn minute(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    start_us: i64,
) -> QueryResult<Option<CandleRow>> {
    sql_query(
        "SELECT time, symbol, open, high, low, close, volume, trades, revision
         FROM candles_1m WHERE symbol = $1 AND time = $2",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(start_us))
    .get_result(connection)
    .await
    .optional()
}

/// Replaces the row of a minute by a repaired candle; the higher revision of both stays. Requires [`lock_partition`].
pub async fn replace_1m(connection: &mut AsyncPgConnection, row: &CandleRow) -> QueryResult<usize> {
    let always = "
ON CONFLICT (symbol, time) DO UPDATE SET
    open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
    volume = excluded.volume, trades = excluded.trades, revision = greatest(candles_1m.revision, excluded.revision)";
    write_1m(connection, always, std::slice::from_ref(row)).await
}

/// Lowers the revision of a minute's row to that of its last tick. Requires [`lock_partition`].
pub async fn lower_revision_1m(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    start_us: i64,
    revision: Revision,
) -> QueryResult<usize> {
    sql_query("UPDATE candles_1m SET revision = $3 WHERE symbol = $1 AND time = $2 AND revision > $3")
        .bind::<Text, _>(symbol.as_str())
        .bind::<Timestamptz, _>(to_datetime(start_us))
        .bind::<BigInt, _>(revision.as_i64())
        .execute(connection)
        .await
}

/// Deletes the candle of a minute. Requires [`lock_partition`].
pub async fn delete(connection: &mut AsyncPgConnection, symbol: &Symbol, start_us: i64) -> QueryResult<usize> {
    sql_query("DELETE FROM candles_1m WHERE symbol = $1 AND time = $2")
        .bind::<Text, _>(symbol.as_str())
        .bind::<Timestamptz, _>(to_datetime(start_us))
        .execute(connection)
        .await
}

/// Deletes the rows of a minute, unless it has ticks. `symbol` may be a text that is not a [`Symbol`].
pub async fn delete_1m_without_ticks(
    connection: &mut AsyncPgConnection,
    symbol: &str,
    start_us: i64,
) -> QueryResult<()> {
    // Two statements: TimescaleDB 2.23 can't plan a DELETE with a subquery on another hypertable.
    let has_ticks: BoolValue = sql_query(
        "SELECT EXISTS (
             SELECT FROM ticks WHERE symbol = $1 AND time >= $2 AND time < $2 + INTERVAL '1 minute') AS value",
    )
    .bind::<Text, _>(symbol)
    .bind::<Timestamptz, _>(to_datetime(start_us))
    .get_result(connection)
    .await?;
    if !has_ticks.value {
        sql_query("DELETE FROM candles_1m WHERE symbol = $1 AND time = $2")
            .bind::<Text, _>(symbol)
            .bind::<Timestamptz, _>(to_datetime(start_us))
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Class of the advisory locks of [`lock_partition`], an arbitrary number that no other lock uses.
const PARTITION_LOCKS: i32 = 0x6361_6e64;

/// Makes other writers of candles of `partition` wait until the end of this transaction, so that no row changes between
/// [`insert_1m`], [`compare`] and [`upsert_1m`], or between [`minute`] and [`replace_1m`].
pub async fn lock_partition(connection: &mut AsyncPgConnection, partition: u16) -> QueryResult<()> {
    sql_query("SELECT pg_advisory_xact_lock($1, $2)")
        .bind::<Integer, _>(PARTITION_LOCKS)
        .bind::<Integer, _>(i32::from(partition))
        .execute(connection)
        .await?;
    Ok(())
}

/// The fields of a new candle that [`compare`] needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Symbol that was traded.
    pub symbol: Symbol,
    /// Start of the minute in µs since 1970.
    pub start_us: i64,
    /// Number of trades.
    pub trades: i32,
    /// First entry folded in.
    pub since: Revision,
    /// Last entry folded in.
    pub revision: Revision,
}

/// Difference between a new candle and the row of its minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The candle replaces the row: it contains the ticks of the row and later ones, or more trades up to the same
    /// entry.
    Newer,
    /// The minute must be computed again from `ticks`: the older of candle and row contains ticks that the newer lacks,
    /// because it ends before the newer begins or counts more trades.
    Diverged,
}

impl Candidate {
    fn difference(&self, row: &StoredCandle) -> Option<Difference> {
        match self.revision.cmp(&row.revision) {
            Ordering::Greater => {
                let lacks_ticks = row.revision < self.since || row.trades > self.trades;
                Some(if lacks_ticks {
                    Difference::Diverged
                } else {
                    Difference::Newer
                })
            }
            Ordering::Equal => (row.trades < self.trades).then_some(Difference::Newer),
            Ordering::Less => (row.trades <= self.trades).then_some(Difference::Diverged),
        }
    }
}

#[derive(QueryableByName)]
struct StoredCandle {
    #[diesel(sql_type = Integer)]
    run: i32,
    #[diesel(sql_type = Timestamptz, column_name = time, deserialize_as = Micros)]
    start_us: i64,
    #[diesel(sql_type = Integer)]
    trades: i32,
    #[diesel(sql_type = BigInt)]
    revision: Revision,
}

// OFFSET 0 makes the planner look up each run in the index regardless of statistics: new rows have none yet, and a scan
// of a whole chunk takes longer the fuller it is. The range over all runs excludes the chunks that no run touches.
const STORED: &str = "
SELECT run, time, trades, revision
FROM (SELECT generate_series(0, cardinality($1) - 1) AS run,
             unnest($1) AS symbol, unnest($2) AS first, unnest($3) AS last) runs
CROSS JOIN LATERAL (
    SELECT row.time, row.trades, row.revision FROM candles_1m row
    WHERE row.symbol = runs.symbol AND row.time BETWEEN runs.first AND runs.last AND row.time BETWEEN $4 AND $5
    OFFSET 0) stored";

/// Distance from which two minutes of a symbol are looked up separately.
const GAP_US: i64 = Timeframe::H1.micros();

/// Compares candles with the rows of their minutes, and returns the index of each candle that differs. A candle without
/// a row is left out, and so is one whose ticks an equal or newer row contains.
pub async fn compare(
    connection: &mut AsyncPgConnection,
    candidates: &[Candidate],
) -> QueryResult<Vec<(usize, Difference)>> {
    let mut minutes: Vec<(&Symbol, i64)> = candidates.iter().map(|row| (&row.symbol, row.start_us)).collect();
    minutes.sort_unstable();
    let runs: Vec<&[(&Symbol, i64)]> = minutes.chunk_by(|a, b| a.0 == b.0 && b.1 - a.1 < GAP_US).collect();
    let starts = || minutes.iter().map(|(_, start_us)| *start_us);
    let (Some(first_us), Some(last_us)) = (starts().min(), starts().max()) else {
        return Ok(Vec::new());
    };
    let times = |minute: fn(&[(&Symbol, i64)]) -> Option<i64>| {
        runs.iter()
            .filter_map(|run| minute(run))
            .map(to_datetime)
            .collect::<Vec<_>>()
    };
    let rows: Vec<StoredCandle> = sql_query(STORED)
        .bind::<Array<Text>, _>(runs.iter().map(|run| run[0].0.as_str()).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(times(|run| run.first().map(|minute| minute.1)))
        .bind::<Array<Timestamptz>, _>(times(|run| run.last().map(|minute| minute.1)))
        .bind::<Timestamptz, _>(to_datetime(first_us))
        .bind::<Timestamptz, _>(to_datetime(last_us))
        .get_results(connection)
        .await?;
    let mut stored = HashMap::new();
    for row in &rows {
        if let Some(run) = usize::try_from(row.run).ok().and_then(|at| runs.get(at)) {
            stored.insert((run[0].0, row.start_us), row);
        }
    }
    Ok(candidates
        .iter()
        .enumerate()
        .filter_map(|(at, new)| Some((at, new.difference(stored.get(&(&new.symbol, new.start_us))?)?)))
        .collect())
}

/// A candle of any timeframe, as the history holds it.
#[derive(Clone, Debug, PartialEq, QueryableByName)]
pub struct HistoryCandle {
    /// Start of the bucket in µs since 1970.
    #[diesel(sql_type = Timestamptz, column_name = time, deserialize_as = Micros)]
    pub start_us: i64,
    /// First price.
    #[diesel(sql_type = Double)]
    pub open: f64,
    /// Highest price.
    #[diesel(sql_type = Double)]
    pub high: f64,
    /// Lowest price.
    #[diesel(sql_type = Double)]
    pub low: f64,
    /// Last price.
    #[diesel(sql_type = Double)]
    pub close: f64,
    /// Volume in units.
    #[diesel(sql_type = Text)]
    pub volume: Decimal,
    /// Number of trades.
    #[diesel(sql_type = BigInt)]
    pub trades: i64,
    /// Last stream entry folded in.
    #[diesel(sql_type = BigInt)]
    pub revision: i64,
}

/// A candle that a query computes, with the times and the first entry of its ticks.
#[derive(QueryableByName)]
pub(super) struct ComputedCandle {
    #[diesel(embed)]
    candle: HistoryCandle,
    #[diesel(sql_type = Timestamptz, column_name = first, deserialize_as = Micros)]
    first_us: i64,
    #[diesel(sql_type = Timestamptz, column_name = last, deserialize_as = Micros)]
    last_us: i64,
    #[diesel(sql_type = BigInt)]
    since: Revision,
}

impl From<ComputedCandle> for Candle {
    fn from(computed: ComputedCandle) -> Self {
        let ComputedCandle {
            candle,
            first_us,
            last_us,
            since,
        } = computed;
        Self {
            start_us: candle.start_us,
            open: candle.open,
            high: candle.high,
            low: candle.low,
            close: candle.close,
            volume: candle.volume,
            trades: candle.trades,
            first_us,
            last_us,
            since,
            revision: candle.revision.try_into().unwrap_or_default(),
        }
    }
}

/// Time in which [`range`] looks for candles first, in units of the time that they cover without gaps.
pub(super) const RECENT: i64 = 4;

/// Reads the newest `limit` candles of a symbol that start in `range`, oldest first.
pub async fn range(
    connection: &mut AsyncPgConnection,
    timeframe: Timeframe,
    symbol: &Symbol,
    range: TimeRange,
    limit: i64,
) -> QueryResult<Vec<HistoryCandle>> {
    // Planning takes a third of a millisecond per chunk, so all chunks are read only if recent ones don't suffice.
    let length_us = limit.saturating_mul(RECENT * timeframe.micros());
    let recent = TimeRange {
        from_us: range.to_us.min(Utc::now().timestamp_micros()).saturating_sub(length_us),
        ..range
    };
    let mut candles = Vec::new();
    if recent.from_us > range.from_us {
        candles = newest_of(connection, timeframe, symbol, recent, limit).await?;
    }
    if i64::try_from(candles.len()) != Ok(limit) {
        candles = newest_of(connection, timeframe, symbol, range, limit).await?;
    }
    candles.reverse();
    Ok(candles)
}

async fn newest_of(
    connection: &mut AsyncPgConnection,
    timeframe: Timeframe,
    symbol: &Symbol,
    range: TimeRange,
    limit: i64,
) -> QueryResult<Vec<HistoryCandle>> {
    sql_query(format!(
        "SELECT time, open, high, low, close,
                lots_to_units(
                    volume::numeric,
                    coalesce((SELECT volume_decimals FROM symbols WHERE symbol = $1), 8::smallint)
                )::text AS volume,
                trades::bigint AS trades, revision
         FROM {} WHERE symbol = $1 AND time >= $2 AND time < $3 ORDER BY time DESC LIMIT $4",
        timeframe.table(),
    ))
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(range.from_us))
    .bind::<Timestamptz, _>(to_datetime(range.to_us))
    .bind::<BigInt, _>(limit)
    .get_results(connection)
    .await
}
