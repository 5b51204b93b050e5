//! The history compared with what it was made from: minutes with their ticks, larger candles with their minutes.
//! Plain SQL over the source, so that it shares no code with what it checks.

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::completeness;
use crate::domain::symbol::Symbol;
use crate::domain::time::{TimeRange, to_datetime};
use crate::domain::timeframe::Timeframe;

/// A candle that is not what its source gives.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Difference {
    /// What was traded.
    #[diesel(sql_type = Text)]
    pub symbol: String,
    /// Start of the bucket.
    #[diesel(sql_type = Timestamptz)]
    pub time: DateTime<Utc>,
    /// `(open,high,low,close,volume in lots,trades)` that the history holds, and in how many rows if it is more than one; `None`
    /// where it holds none.
    #[diesel(sql_type = Nullable<Text>)]
    pub found: Option<String>,
    /// The same as its source gives it; `None` where the source has nothing.
    #[diesel(sql_type = Nullable<Text>)]
    pub expected: Option<String>,
    /// Whether a minute's ticks have a volume beyond a bigint, so that `expected` is not what its candle can be.
    #[diesel(sql_type = Bool)]
    pub is_beyond_bigint: bool,
}

/// The result of comparing the candles of one timeframe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// How many candles there are in the history, in its source, or in both.
    pub compared: i64,
    /// Those that differ.
    pub differences: Vec<Difference>,
}

const FROM_TICKS: &str = "
SELECT symbol, time_bucket(INTERVAL '1 minute', time) AS bucket,
       (array_agg(price ORDER BY time, revision))[1] AS open, max(price) AS high, min(price) AS low,
       (array_agg(price ORDER BY time DESC, revision DESC))[1] AS close, sum(lots) AS volume, count(*) AS trades,
       max(revision) AS revision
FROM ticks WHERE time >= $1 AND time < $2 AND ($3 IS NULL OR symbol = $3)
GROUP BY 1, 2";

fn from_minutes(timeframe: Timeframe) -> String {
    format!(
        "SELECT symbol, time_bucket(INTERVAL '{} seconds', time) AS bucket,
                (array_agg(open ORDER BY time))[1] AS open, max(high) AS high, min(low) AS low,
                (array_agg(close ORDER BY time DESC))[1] AS close, sum(volume) AS volume, sum(trades) AS trades,
                max(revision) AS revision
         FROM candles_1m WHERE time >= $1 AND time < $2 AND ($3 IS NULL OR symbol = $3)
         GROUP BY 1, 2",
        timeframe.seconds()
    )
}

/// A candle whose source may lack rows, as retention has dropped some, is as it must be if it holds at least what is left.
const HOLDS_WHAT_IS_LEFT: &str = "f.open IS NOT NULL AND (e.open IS NULL OR (
    f.high >= e.high AND f.low <= e.low AND f.volume >= e.volume AND f.trades >= e.trades AND f.revision >= e.revision))";

#[derive(QueryableByName)]
struct Compared {
    #[diesel(sql_type = BigInt)]
    compared: i64,
}

/// Compares the candles of `timeframe` that start in `range`, whose ends must be bucket borders: minutes with `ticks`,
/// larger ones with `candles_1m`. Only those of `symbol` where one is given. Candles from before the border since when the source
/// is complete must hold at least what is left of it.
///
/// # Errors
/// The database's.
pub async fn compare(
    connection: &mut AsyncPgConnection,
    timeframe: Timeframe,
    symbol: Option<&Symbol>,
    range: TimeRange,
) -> QueryResult<Comparison> {
    let (table, source) = match timeframe {
        Timeframe::M1 => ("ticks", FROM_TICKS.to_owned()),
        larger => ("candles_1m", from_minutes(larger)),
    };
    let complete_since_us = completeness::since(connection, table).await?;
    let pairs = format!(
        "WITH expected AS ({source}),
              found AS (SELECT symbol, time AS bucket, open, high, low, close, volume, trades, revision,
                               count(*) OVER (PARTITION BY symbol, time) AS copies FROM {}
                        WHERE time >= $1 AND time < $2 AND ($3 IS NULL OR symbol = $3))",
        timeframe.table()
    );
    let differences = sql_query(format!(
        "{pairs}
         SELECT DISTINCT symbol, bucket AS time,
                CASE WHEN f.open IS NOT NULL THEN (f.open, f.high, f.low, f.close, f.volume, f.trades)::text END
                    || CASE WHEN copies > 1 THEN ' in ' || copies || ' rows' ELSE '' END AS found,
                CASE WHEN e.open IS NOT NULL THEN (e.open, e.high, e.low, e.close, e.volume, e.trades)::text END AS expected,
                coalesce(e.volume > 9223372036854775807, false) AND '{timeframe}' = '1m' AS is_beyond_bigint
         FROM expected e FULL JOIN found f USING (symbol, bucket)
         WHERE copies > 1
            OR (e.open, e.high, e.low, e.close, e.volume::numeric, e.trades::numeric)
                   IS DISTINCT FROM (f.open, f.high, f.low, f.close, f.volume::numeric, f.trades::numeric)
               AND NOT coalesce(bucket < $4 AND {HOLDS_WHAT_IS_LEFT}, false)
         ORDER BY 1, 2"
    ));
    let compared = sql_query(format!(
        "{pairs} SELECT count(*) AS compared FROM expected FULL JOIN found USING (symbol, bucket)"
    ));
    let differences = differences
        .bind::<Timestamptz, _>(to_datetime(range.from_us))
        .bind::<Timestamptz, _>(to_datetime(range.to_us))
        .bind::<Nullable<Text>, _>(symbol.map(Symbol::as_str))
        .bind::<Nullable<Timestamptz>, _>(complete_since_us.map(to_datetime))
        .get_results(connection)
        .await?;
    let Compared { compared } = compared
        .bind::<Timestamptz, _>(to_datetime(range.from_us))
        .bind::<Timestamptz, _>(to_datetime(range.to_us))
        .bind::<Nullable<Text>, _>(symbol.map(Symbol::as_str))
        .get_result(connection)
        .await?;
    Ok(Comparison { compared, differences })
}

#[derive(QueryableByName)]
struct Chunk {
    #[diesel(sql_type = Timestamptz)]
    range_start: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    range_end: DateTime<Utc>,
}

/// The times of the chunks of the hypertable `table`, which is read as SQL, oldest first.
///
/// # Errors
/// The database's.
pub async fn chunk_ranges(connection: &mut AsyncPgConnection, table: &str) -> QueryResult<Vec<TimeRange>> {
    let chunks: Vec<Chunk> = sql_query(
        "SELECT range_start, range_end FROM timescaledb_information.chunks
         WHERE (hypertable_schema, hypertable_name) = (
             SELECT relnamespace::regnamespace::name, relname FROM pg_class WHERE oid = $1::regclass)
         ORDER BY range_start",
    )
    .bind::<Text, _>(table)
    .get_results(connection)
    .await?;
    let range = |chunk: Chunk| TimeRange {
        from_us: chunk.range_start.timestamp_micros(),
        to_us: chunk.range_end.timestamp_micros(),
    };
    Ok(chunks.into_iter().map(range).collect())
}

/// The minutes of `symbol` in `range` that have ticks, oldest first; their starts in µs since 1970.
///
/// # Errors
/// The database's.
pub async fn minutes_with_ticks(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    range: TimeRange,
) -> QueryResult<Vec<i64>> {
    let minutes: Vec<Minute> = sql_query(
        "SELECT DISTINCT time_bucket(INTERVAL '1 minute', time) AS minute FROM ticks
         WHERE symbol = $1 AND time >= $2 AND time < $3 ORDER BY 1",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(range.from_us))
    .bind::<Timestamptz, _>(to_datetime(range.to_us))
    .get_results(connection)
    .await?;
    Ok(minutes
        .into_iter()
        .map(|minute| minute.minute.timestamp_micros())
        .collect())
}

#[derive(QueryableByName)]
struct Minute {
    #[diesel(sql_type = Timestamptz)]
    minute: DateTime<Utc>,
}
