//! `coverage`: the times in which feeds were connected, and other evidence of gaps.

use std::collections::BTreeSet;

use diesel::sql_types::{Array, BigInt, Bool, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::heartbeat::Coverage;
use crate::domain::symbol::Symbol;
use crate::domain::time::{TimeRange, to_datetime};
use crate::postgres::columns::{Micros, TimeValue};

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    feed: String,
    #[diesel(sql_type = Timestamptz, column_name = since, deserialize_as = Micros)]
    since_us: i64,
    #[diesel(sql_type = Timestamptz, column_name = until, deserialize_as = Micros)]
    until_us: i64,
    #[diesel(sql_type = Array<Text>)]
    symbols: Vec<String>,
    #[diesel(sql_type = Bool)]
    is_down: bool,
}

impl From<Row> for Coverage {
    fn from(row: Row) -> Self {
        Self {
            feed: row.feed,
            since_us: row.since_us,
            until_us: row.until_us,
            symbols: row.symbols.iter().filter_map(|symbol| symbol.parse().ok()).collect(),
            is_down: row.is_down,
        }
    }
}

/// Reads the latest coverage of each of `feeds`.
pub async fn latest(connection: &mut AsyncPgConnection, feeds: &BTreeSet<&str>) -> QueryResult<Vec<Coverage>> {
    let rows: Vec<Row> = sql_query(
        "SELECT coverage.* FROM (SELECT unnest($1) AS feed) wanted
         CROSS JOIN LATERAL (
             SELECT * FROM coverage row WHERE row.feed = wanted.feed ORDER BY since DESC LIMIT 1) coverage",
    )
    .bind::<Array<Text>, _>(feeds.iter().copied().collect::<Vec<_>>())
    .get_results(connection)
    .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Writes coverage, and replaces what begins at the same time.
pub async fn write(connection: &mut AsyncPgConnection, rows: &[Coverage]) -> QueryResult<()> {
    for row in rows {
        sql_query(
            "INSERT INTO coverage (feed, since, until, symbols, is_down) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (feed, since) DO UPDATE
             SET until = excluded.until, symbols = excluded.symbols, is_down = excluded.is_down",
        )
        .bind::<Text, _>(&row.feed)
        .bind::<Timestamptz, _>(to_datetime(row.since_us))
        .bind::<Timestamptz, _>(to_datetime(row.until_us))
        .bind::<Array<Text>, _>(row.symbols.iter().map(Symbol::as_str).collect::<Vec<_>>())
        .bind::<Bool, _>(row.is_down)
        .execute(connection)
        .await?;
    }
    Ok(())
}

/// Reads the coverage, up to `until_us`, of the feeds that were ever subscribed to `symbol`, in the order of feed and
/// time.
pub async fn of_symbol(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    until_us: i64,
) -> QueryResult<Vec<Coverage>> {
    let rows: Vec<Row> = sql_query(
        "SELECT * FROM coverage
         WHERE since < $2 AND feed IN (SELECT feed FROM coverage WHERE $1 = ANY(symbols)) ORDER BY feed, since",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(until_us))
    .get_results(connection)
    .await?;
    Ok(rows.into_iter().map(Into::into).collect())
}

/// Reads the starts of the minutes of `symbol` in `range` that have a candle, in µs since 1970.
pub async fn traded_minutes(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    range: TimeRange,
) -> QueryResult<Vec<i64>> {
    times(
        connection,
        "SELECT time AS value FROM candles_1m WHERE symbol = $1 AND time >= $2 AND time < $3",
        symbol,
        range,
    )
    .await
}

/// Reads the starts of the 5-minute candles of `symbol` in `range` that count more trades than their minutes.
pub async fn buckets_without_minutes(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    range: TimeRange,
) -> QueryResult<Vec<i64>> {
    times(
        connection,
        "SELECT larger.time AS value
         FROM (SELECT time, trades FROM candles_5m WHERE symbol = $1 AND time >= $2 AND time < $3) larger
         LEFT JOIN (SELECT time_bucket(INTERVAL '5 minutes', time) AS bucket, sum(trades) AS trades FROM candles_1m
                    WHERE symbol = $1 AND time >= $2 AND time < $3 GROUP BY 1) minutes ON bucket = larger.time
         WHERE larger.trades > coalesce(minutes.trades, 0)",
        symbol,
        range,
    )
    .await
}

async fn times(
    connection: &mut AsyncPgConnection,
    query: &str,
    symbol: &Symbol,
    range: TimeRange,
) -> QueryResult<Vec<i64>> {
    let found: Vec<TimeValue> = sql_query(query)
        .bind::<Text, _>(symbol.as_str())
        .bind::<Timestamptz, _>(to_datetime(range.from_us))
        .bind::<Timestamptz, _>(to_datetime(range.to_us))
        .get_results(connection)
        .await?;
    Ok(found.into_iter().filter_map(TimeValue::us).collect())
}

/// Two trades with consecutive numeric IDs or without the IDs between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, QueryableByName)]
pub struct IdStep {
    /// Event time of the first trade in µs since 1970.
    #[diesel(sql_type = Timestamptz, column_name = after, deserialize_as = Micros)]
    pub after_us: i64,
    /// Event time of the second trade in µs since 1970.
    #[diesel(sql_type = Timestamptz, column_name = before, deserialize_as = Micros)]
    pub before_us: i64,
    /// ID of the first trade.
    #[diesel(sql_type = BigInt)]
    pub id: i64,
    /// ID of the second trade.
    #[diesel(sql_type = BigInt)]
    pub next_id: i64,
}

/// Numeric trade IDs of a symbol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdSteps {
    /// Number of pairs of neighbouring trades.
    pub steps: i64,
    /// Number of pairs whose IDs are consecutive.
    pub consecutive: i64,
    /// Pairs without the IDs between them, and pairs with consecutive IDs that are more than a minute apart.
    pub noted: Vec<IdStep>,
}

const STEPS: &str = "
WITH trades AS (
    SELECT time, trade_no FROM ticks WHERE symbol = $1 AND time >= $2 AND time < $3 AND trade_key = ''
    UNION ALL
    SELECT DISTINCT time, trade_no FROM tick_versions busted
    WHERE symbol = $1 AND time >= $2 AND time < $3 AND trade_key = '' AND price IS NULL AND NOT EXISTS (
        SELECT FROM ticks WHERE ticks.symbol = $1 AND ticks.time = busted.time
            AND ticks.trade_no = busted.trade_no AND ticks.trade_key = '')),
steps AS (
    SELECT time AS after, lead(time) OVER (ORDER BY time, trade_no) AS before,
           trade_no AS id, lead(trade_no) OVER (ORDER BY time, trade_no) AS next_id
    FROM trades)";

/// Maximum number of steps that are read.
const MAX_STEPS: usize = 100_000;

#[derive(QueryableByName)]
struct Counts {
    #[diesel(sql_type = BigInt)]
    steps: i64,
    #[diesel(sql_type = BigInt)]
    consecutive: i64,
}

/// Reads how the numeric trade IDs of `symbol` in `range` follow each other.
pub async fn id_steps(connection: &mut AsyncPgConnection, symbol: &Symbol, range: TimeRange) -> QueryResult<IdSteps> {
    let [from, to] = [range.from_us, range.to_us].map(to_datetime);
    let counts: Counts = sql_query(format!(
        "{STEPS} SELECT count(next_id) AS steps, count(*) FILTER (WHERE next_id = id + 1) AS consecutive FROM steps"
    ))
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(from)
    .bind::<Timestamptz, _>(to)
    .get_result(connection)
    .await?;
    let noted = sql_query(format!(
        "{STEPS} SELECT * FROM steps
         WHERE next_id > id + 1 OR next_id = id + 1 AND before > after + INTERVAL '1 minute'
         ORDER BY after LIMIT {MAX_STEPS}"
    ))
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(from)
    .bind::<Timestamptz, _>(to)
    .get_results(connection)
    .await?;
    Ok(IdSteps {
        steps: counts.steps,
        consecutive: counts.consecutive,
        noted,
    })
}
