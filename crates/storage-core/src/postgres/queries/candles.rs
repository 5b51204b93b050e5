//! `candles_1m` as warm-syncer writes it, and candles of every timeframe as people read them.

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Double, Integer, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
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

const UPSERT_1M: &str = "
INSERT INTO candles_1m (time, symbol, open, high, low, close, volume, trades, revision)
SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9) AS new (time, symbol, open, high, low, close, volume, trades, revision)
ORDER BY symbol, time
ON CONFLICT (symbol, time) DO UPDATE SET
    open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
    volume = excluded.volume, trades = excluded.trades, revision = excluded.revision
WHERE candles_1m.revision < excluded.revision";

/// Writes each candle unless the table holds a revision at least as new. Works into compressed chunks too.
/// `rows` must hold no symbol and minute twice. Returns how many were written.
///
/// The rows are sorted on the way, so that two writers can't wait for each other.
///
/// # Errors
/// The database's.
pub async fn upsert_1m(connection: &mut AsyncPgConnection, rows: &[CandleRow]) -> QueryResult<usize> {
    let of = |price: fn(&CandleRow) -> f64| rows.iter().map(price).collect::<Vec<_>>();
    sql_query(UPSERT_1M)
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

/// Replaces a candle whatever its revision, as a repair does, unless the table's has more trades. Returns whether it
/// was written.
///
/// # Errors
/// The database's.
pub async fn replace_1m(connection: &mut AsyncPgConnection, row: &CandleRow) -> QueryResult<bool> {
    sql_query(
        "INSERT INTO candles_1m AS old (time, symbol, open, high, low, close, volume, trades, revision)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (symbol, time) DO UPDATE SET
             open = excluded.open, high = excluded.high, low = excluded.low, close = excluded.close,
             volume = excluded.volume, trades = excluded.trades, revision = greatest(old.revision, excluded.revision)
         WHERE old.trades <= excluded.trades",
    )
    .bind::<Timestamptz, _>(to_datetime(row.start_us))
    .bind::<Text, _>(row.symbol.as_str())
    .bind::<Double, _>(row.open)
    .bind::<Double, _>(row.high)
    .bind::<Double, _>(row.low)
    .bind::<Double, _>(row.close)
    .bind::<BigInt, _>(row.volume_lots)
    .bind::<Integer, _>(row.trades)
    .bind::<BigInt, _>(row.revision.as_i64())
    .execute(connection)
    .await
    .map(|written| written == 1)
}

/// The class of [`lock_partition`]'s locks. The number means nothing; it must only be nobody else's.
const PARTITION_LOCKS: i32 = 0x6361_6e64;

/// Keeps others that write candles of `partition` waiting until the end of this transaction, so that nothing changes between
/// [`superseding`] and [`upsert_1m`].
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

/// A candle that is about to be written, as far as [`superseding`] must know it.
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

#[derive(QueryableByName)]
struct At {
    #[diesel(sql_type = BigInt)]
    ordinal: i64,
}

// The range of time spares the chunks that no candidate belongs to.
const SUPERSEDING: &str = "
SELECT new.ordinal
FROM unnest($1, $2, $3, $4, $5) WITH ORDINALITY AS new (symbol, time, trades, since, revision, ordinal)
JOIN candles_1m old USING (symbol, time)
WHERE old.time BETWEEN $6 AND $7
  AND (old.revision < new.revision AND (old.revision < new.since OR old.trades > new.trades)
       OR old.revision > new.revision AND old.trades <= new.trades)
ORDER BY new.ordinal";

/// Which of `candidates` must not be written but computed from `ticks` again, because of it and the row that the table
/// holds the older has ticks which the newer lacks: it ends before the newer begins, or counts more trades.
/// Returned by their index.
///
/// # Errors
/// The database's.
pub async fn superseding(connection: &mut AsyncPgConnection, candidates: &[Successor]) -> QueryResult<Vec<usize>> {
    let starts = || candidates.iter().map(|row| row.start_us);
    let (Some(first_us), Some(last_us)) = (starts().min(), starts().max()) else {
        return Ok(Vec::new());
    };
    let found: Vec<At> = sql_query(SUPERSEDING)
        .bind::<Array<Text>, _>(candidates.iter().map(|row| row.symbol.as_str()).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(starts().map(to_datetime).collect::<Vec<_>>())
        .bind::<Array<Integer>, _>(candidates.iter().map(|row| row.trades).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(candidates.iter().map(|row| row.since.as_i64()).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(candidates.iter().map(|row| row.revision.as_i64()).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(to_datetime(first_us))
        .bind::<Timestamptz, _>(to_datetime(last_us))
        .get_results(connection)
        .await?;
    Ok(found
        .into_iter()
        .filter_map(|at| usize::try_from(at.ordinal - 1).ok())
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
