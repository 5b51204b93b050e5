//! Comparison of candles with their source: minutes with their ticks, larger candles with their minutes. The SQL is
//! independent of the code that it checks.

use chrono::{DateTime, Utc};
use diesel::sql_types::{Bool, Nullable, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::completeness;
use crate::domain::symbol::Symbol;
use crate::domain::time::{TimeRange, to_datetime};
use crate::domain::timeframe::Timeframe;
use crate::postgres::columns::{IntegerValue, TimeValue};

/// A candle that differs from the one computed from its source.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Difference {
    /// Symbol that was traded.
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
    /// `true` if the volume of a minute's ticks exceeds a bigint, so that no candle can hold `expected`.
    #[diesel(sql_type = Bool)]
    pub is_beyond_bigint: bool,
}

/// Result of comparing the candles of one timeframe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Number of candles in the history, in its source, or in both.
    pub compared: i64,
    /// Candles that differ.
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

/// Condition for a candle whose source may lack rows after retention: it must contain at least the rows that are left.
const CONTAINS_REMAINING_ROWS: &str = "f.open IS NOT NULL AND (e.open IS NULL OR (
    f.high >= e.high AND f.low <= e.low
    AND f.volume >= e.volume AND f.trades >= e.trades AND f.revision >= e.revision))";

/// Returns the table from which the candles of `timeframe` are computed for the comparison.
pub fn source_table(timeframe: Timeframe) -> &'static str {
    match timeframe {
        Timeframe::M1 => "ticks",
        _ => "candles_1m",
    }
}

/// Compares the candles of `timeframe` that start in `range`, optionally of one symbol: minutes with `ticks`, larger
/// ones with `candles_1m`. Both ends of `range` must be bucket borders. Candles before the border from which the source
/// is complete must contain at least the rows that are left of it.
pub async fn compare(
    connection: &mut AsyncPgConnection,
    timeframe: Timeframe,
    symbol: Option<&Symbol>,
    range: TimeRange,
) -> QueryResult<Comparison> {
    let source = match timeframe {
        Timeframe::M1 => FROM_TICKS.to_owned(),
        larger => from_minutes(larger),
    };
    let complete_since_us = completeness::since(connection, source_table(timeframe)).await?;
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
                CASE WHEN e.open IS NOT NULL
                    THEN (e.open, e.high, e.low, e.close, e.volume, e.trades)::text END AS expected,
                coalesce(e.volume > 9223372036854775807, false) AND '{timeframe}' = '1m' AS is_beyond_bigint
         FROM expected e FULL JOIN found f USING (symbol, bucket)
         WHERE copies > 1
            OR (e.open, e.high, e.low, e.close, e.volume::numeric, e.trades::numeric)
                   IS DISTINCT FROM (f.open, f.high, f.low, f.close, f.volume::numeric, f.trades::numeric)
               AND NOT coalesce(bucket < $4 AND {CONTAINS_REMAINING_ROWS}, false)
         ORDER BY 1, 2"
    ));
    let compared = sql_query(format!(
        "{pairs} SELECT count(*) AS value FROM expected FULL JOIN found USING (symbol, bucket)"
    ));
    let differences = differences
        .bind::<Timestamptz, _>(to_datetime(range.from_us))
        .bind::<Timestamptz, _>(to_datetime(range.to_us))
        .bind::<Nullable<Text>, _>(symbol.map(Symbol::as_str))
        .bind::<Nullable<Timestamptz>, _>(complete_since_us.map(to_datetime))
        .get_results(connection)
        .await?;
    let IntegerValue { value: compared } = compared
        .bind::<Timestamptz, _>(to_datetime(range.from_us))
        .bind::<Timestamptz, _>(to_datetime(range.to_us))
        .bind::<Nullable<Text>, _>(symbol.map(Symbol::as_str))
        .get_result(connection)
        .await?;
    Ok(Comparison { compared, differences })
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
