//! `candles_1m` as warm-syncer writes it, and candles of every timeframe as people read them.

use std::cmp::Ordering;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Double, Integer, Text, Timestamptz};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::decimal::Decimal;
use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::time::{TimeRange, to_datetime};
use crate::domain::timeframe::Timeframe;

/// A 1-minute candle as the table holds it.
#[derive(Clone, Debug, PartialEq)]
pub struct CandleRow {
    /// Start of the minute in µs since 1970.
    pub start_us: i64,
    /// What was traded.
    pub symbol: Symbol,
    /// First price.
    pub open: f64,
    /// Highest price.
    pub high: f64,
    /// Lowest price.
    pub low: f64,
    /// Last price.
    pub close: f64,
    /// Volume in lots of the symbol.
    pub volume_lots: i64,
    /// Number of trades.
    pub trades: i32,
    /// The last stream entry folded in.
    pub revision: Revision,
}

// Set-returning functions in the SELECT list, as rows that stream; in FROM the server would first store each array as a table.
const INSERT_1M: &str = "
INSERT INTO candles_1m (time, symbol, open, high, low, close, volume, trades, revision)
SELECT unnest($1), unnest($2), unnest($3), unnest($4), unnest($5), unnest($6), unnest($7), unnest($8), unnest($9)";

/// Writes the candles of minutes that the table has no row of. Returns how many these were.
///
/// # Errors
/// The database's.
pub async fn insert_1m(connection: &mut AsyncPgConnection, rows: &[CandleRow]) -> QueryResult<usize> {
    write_1m(connection, "ON CONFLICT DO NOTHING", rows).await
}

/// Writes each candle unless the table holds a revision at least as new, with as many trades. Works into compressed chunks too.
/// `rows` must hold no symbol and minute twice. Returns how many were written.
///
/// # Errors
/// The database's.
pub async fn upsert_1m(connection: &mut AsyncPgConnection, rows: &[CandleRow]) -> QueryResult<usize> {
    let newer = "
ON CONFLICT (symbol, time) DO UPDATE SET
    open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
    volume = excluded.volume, trades = excluded.trades, revision = excluded.revision
WHERE (candles_1m.revision, candles_1m.trades) < (excluded.revision, excluded.trades)";
    write_1m(connection, newer, rows).await
}

/// Sorted, so that two writers can't wait for each other, and because neighbours in the index are written the fastest.
async fn write_1m(connection: &mut AsyncPgConnection, on_conflict: &str, rows: &[CandleRow]) -> QueryResult<usize> {
    if rows.is_empty() {
        return Ok(0);
    }
    let mut rows: Vec<&CandleRow> = rows.iter().collect();
    rows.sort_by(|a, b| (&a.symbol, a.start_us).cmp(&(&b.symbol, b.start_us)));
    let of = |price: fn(&CandleRow) -> f64| rows.iter().map(|row| price(row)).collect::<Vec<_>>();
    sql_query(format!("{INSERT_1M} {on_conflict}"))
        .bind::<Array<Timestamptz>, _>(rows.iter().map(|row| to_datetime(row.start_us)).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(rows.iter().map(|row| row.symbol.as_str()).collect::<Vec<_>>())
        .bind::<Array<Double>, _>(of(|row| row.open))
        .bind::<Array<Double>, _>(of(|row| row.high))
        .bind::<Array<Double>, _>(of(|row| row.low))
        .bind::<Array<Double>, _>(of(|row| row.close))
        .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.volume_lots).collect::<Vec<_>>())
        .bind::<Array<Integer>, _>(rows.iter().map(|row| row.trades).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(rows.iter().map(|row| row.revision.as_i64()).collect::<Vec<_>>())
        .execute(connection)
        .await
}

#[derive(QueryableByName)]
struct Minute {
    #[diesel(sql_type = Double)]
    open: f64,
    #[diesel(sql_type = Double)]
    high: f64,
    #[diesel(sql_type = Double)]
    low: f64,
    #[diesel(sql_type = Double)]
    close: f64,
    #[diesel(sql_type = BigInt)]
    volume: i64,
    #[diesel(sql_type = Integer)]
    trades: i32,
    #[diesel(sql_type = BigInt)]
    revision: i64,
}

/// The candle of the minute that starts at `start_us`, if there is one.
///
/// # Errors
/// The database's.
pub async fn minute(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    start_us: i64,
) -> QueryResult<Option<CandleRow>> {
    let row: Option<Minute> = sql_query(
        "SELECT open, high, low, close, volume, trades, revision FROM candles_1m WHERE symbol = $1 AND time = $2",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(start_us))
    .get_result(connection)
    .await
    .optional()?;
    Ok(row.map(|row| CandleRow {
        start_us,
        symbol: symbol.clone(),
        open: row.open,
        high: row.high,
        low: row.low,
        close: row.close,
        volume_lots: row.volume,
        trades: row.trades,
        revision: row.revision.try_into().unwrap_or_default(),
    }))
}

/// Writes a candle whatever the table holds, as a repair does; a higher revision stays. Under [`lock_partition`] only.
///
/// # Errors
/// The database's.
pub async fn replace_1m(connection: &mut AsyncPgConnection, row: &CandleRow) -> QueryResult<usize> {
    let whatever = "
ON CONFLICT (symbol, time) DO UPDATE SET
    open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
    volume = excluded.volume, trades = excluded.trades, revision = greatest(candles_1m.revision, excluded.revision)";
    write_1m(connection, whatever, std::slice::from_ref(row)).await
}

/// The class of [`lock_partition`]'s locks. The number means nothing; it must only be nobody else's.
const PARTITION_LOCKS: i32 = 0x6361_6e64;

/// Keeps others that write candles of `partition` waiting until the end of this transaction, so that nothing changes between
/// [`insert_1m`], [`differing`] and [`upsert_1m`], or between [`minute`] and [`replace_1m`].
///
/// # Errors
/// The database's.
pub async fn lock_partition(connection: &mut AsyncPgConnection, partition: u16) -> QueryResult<()> {
    sql_query("SELECT pg_advisory_xact_lock($1, $2)")
        .bind::<Integer, _>(PARTITION_LOCKS)
        .bind::<Integer, _>(i32::from(partition))
        .execute(connection)
        .await?;
    Ok(())
}

/// A candle that is about to be written, as far as [`differing`] must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Successor {
    /// What was traded.
    pub symbol: Symbol,
    /// Start of the minute in µs since 1970.
    pub start_us: i64,
    /// Number of trades.
    pub trades: i32,
    /// The first entry folded in.
    pub since: Revision,
    /// The last entry folded in.
    pub revision: Revision,
}

/// How a candle differs from the one that the table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// It goes on where the row was, or counts trades up to the same entry that did not fit the row, and replaces it.
    Newer,
    /// It must not be written but computed from `ticks` again: of it and the row the older has ticks which the newer lacks, as
    /// it ends before the newer begins, or counts more trades.
    Torn,
}

impl Successor {
    fn difference(&self, held: &Held) -> Option<Difference> {
        match self.revision.as_i64().cmp(&held.revision) {
            Ordering::Greater => {
                let torn = held.revision < self.since.as_i64() || held.trades > self.trades;
                Some(if torn { Difference::Torn } else { Difference::Newer })
            }
            Ordering::Equal => (held.trades < self.trades).then_some(Difference::Newer),
            Ordering::Less => (held.trades <= self.trades).then_some(Difference::Torn),
        }
    }
}

#[derive(QueryableByName)]
struct Held {
    #[diesel(sql_type = Integer)]
    run: i32,
    #[diesel(sql_type = Timestamptz)]
    time: DateTime<Utc>,
    #[diesel(sql_type = Integer)]
    trades: i32,
    #[diesel(sql_type = BigInt)]
    revision: i64,
}

// By OFFSET 0 each run is looked up in the index whatever the statistics say: new rows have none yet, and reading a whole chunk
// takes longer the fuller it is. The range of all spares the chunks that no run touches.
const HELD: &str = "
SELECT run, time, trades, revision
FROM (SELECT generate_series(0, cardinality($1) - 1) AS run, unnest($1) AS symbol, unnest($2) AS first, unnest($3) AS last) runs
CROSS JOIN LATERAL (
    SELECT row.time, row.trades, row.revision FROM candles_1m row
    WHERE row.symbol = runs.symbol AND row.time BETWEEN runs.first AND runs.last AND row.time BETWEEN $4 AND $5 OFFSET 0) held";

/// Minutes of a symbol that lie closer to each other are looked up together.
const GAP_US: i64 = Timeframe::H1.micros();

/// Which of `candidates`, by their index, differ from the row that the table holds, and how. Those without a row are not among
/// them, nor those that an equal or newer row has the ticks of.
///
/// # Errors
/// The database's.
pub async fn differing(
    connection: &mut AsyncPgConnection,
    candidates: &[Successor],
) -> QueryResult<Vec<(usize, Difference)>> {
    let mut minutes: Vec<(&Symbol, i64)> = candidates.iter().map(|row| (&row.symbol, row.start_us)).collect();
    minutes.sort_unstable();
    let runs: Vec<&[(&Symbol, i64)]> = minutes.chunk_by(|a, b| a.0 == b.0 && b.1 - a.1 < GAP_US).collect();
    let starts = || minutes.iter().map(|(_, start_us)| *start_us);
    let (Some(first_us), Some(last_us)) = (starts().min(), starts().max()) else {
        return Ok(Vec::new());
    };
    let of = |minute: fn(&[(&Symbol, i64)]) -> Option<i64>| {
        runs.iter()
            .filter_map(|run| minute(run))
            .map(to_datetime)
            .collect::<Vec<_>>()
    };
    let held: Vec<Held> = sql_query(HELD)
        .bind::<Array<Text>, _>(runs.iter().map(|run| run[0].0.as_str()).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(of(|run| run.first().map(|minute| minute.1)))
        .bind::<Array<Timestamptz>, _>(of(|run| run.last().map(|minute| minute.1)))
        .bind::<Timestamptz, _>(to_datetime(first_us))
        .bind::<Timestamptz, _>(to_datetime(last_us))
        .get_results(connection)
        .await?;
    let held: HashMap<(&Symbol, i64), &Held> = held
        .iter()
        .filter_map(|row| {
            Some((
                (
                    runs.get(usize::try_from(row.run).ok()?)?[0].0,
                    row.time.timestamp_micros(),
                ),
                row,
            ))
        })
        .collect();
    Ok(candidates
        .iter()
        .enumerate()
        .filter_map(|(at, row)| Some((at, row.difference(held.get(&(&row.symbol, row.start_us))?)?)))
        .collect())
}

/// A candle of any timeframe, volume in units.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryCandle {
    /// Start of the bucket in µs since 1970.
    pub start_us: i64,
    /// First price.
    pub open: f64,
    /// Highest price.
    pub high: f64,
    /// Lowest price.
    pub low: f64,
    /// Last price.
    pub close: f64,
    /// Volume in units.
    pub volume: Decimal,
    /// Number of trades.
    pub trades: i64,
    /// The last stream entry folded in.
    pub revision: i64,
}

#[derive(QueryableByName)]
struct HistoryRow {
    #[diesel(sql_type = Timestamptz)]
    time: DateTime<Utc>,
    #[diesel(sql_type = Double)]
    open: f64,
    #[diesel(sql_type = Double)]
    high: f64,
    #[diesel(sql_type = Double)]
    low: f64,
    #[diesel(sql_type = Double)]
    close: f64,
    #[diesel(sql_type = Text)]
    volume: String,
    #[diesel(sql_type = BigInt)]
    trades: i64,
    #[diesel(sql_type = BigInt)]
    revision: i64,
}

/// The newest `limit` candles of a symbol that start in `range`, oldest first.
///
/// # Errors
/// The database's.
pub async fn range(
    connection: &mut AsyncPgConnection,
    timeframe: Timeframe,
    symbol: &Symbol,
    range: TimeRange,
    limit: i64,
) -> QueryResult<Vec<HistoryCandle>> {
    let rows: Vec<HistoryRow> = sql_query(format!(
        "SELECT time, open, high, low, close,
                lots_to_units(volume::numeric, coalesce((SELECT volume_decimals FROM symbols WHERE symbol = $1), 8::smallint))::text AS volume,
                trades::bigint AS trades, revision
         FROM {} WHERE symbol = $1 AND time >= $2 AND time < $3 ORDER BY time DESC LIMIT $4",
        timeframe.table(),
    ))
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(range.from_us))
    .bind::<Timestamptz, _>(to_datetime(range.to_us))
    .bind::<BigInt, _>(limit)
    .get_results(connection)
    .await?;
    rows.into_iter().rev().map(HistoryCandle::try_from).collect()
}

impl TryFrom<HistoryRow> for HistoryCandle {
    type Error = diesel::result::Error;

    fn try_from(row: HistoryRow) -> QueryResult<Self> {
        Ok(Self {
            start_us: row.time.timestamp_micros(),
            open: row.open,
            high: row.high,
            low: row.low,
            close: row.close,
            volume: row
                .volume
                .parse()
                .map_err(|error| diesel::result::Error::DeserializationError(Box::new(error)))?,
            trades: row.trades,
            revision: row.revision,
        })
    }
}
