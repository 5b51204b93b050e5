//! The part of a candle of any timeframe that hot-writer has lost, computed from `ticks`.

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Double, Text, Timestamptz};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::candle::Candle;
use crate::domain::decimal::Decimal;
use crate::domain::time::to_datetime;
use crate::redis::codec::repairs::Base;

#[derive(QueryableByName)]
struct Row {
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
    #[diesel(sql_type = Timestamptz)]
    first: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    last: DateTime<Utc>,
    #[diesel(sql_type = BigInt)]
    since: i64,
}

// Minute by minute, because a minute of which retention has dropped ticks is known from its candle only, without the times of its
// first and last tick.
const BASE: &str = "
WITH from_ticks AS (
    SELECT date_trunc('minute', time, 'UTC') AS minute,
           (array_agg(price ORDER BY time, revision))[1] AS open, max(price) AS high, min(price) AS low,
           (array_agg(price ORDER BY time DESC, revision DESC))[1] AS close,
           sum(lots) AS volume, count(*) AS trades, min(time) AS first, max(time) AS last, min(revision) AS since
    FROM ticks WHERE symbol = $1 AND time >= $2 AND time < $3 AND revision <= $4
    GROUP BY 1
), from_candles AS (
    SELECT time AS minute, open, high, low, close, volume::numeric AS volume, trades::bigint AS trades, time AS first,
           time + interval '59.999999 seconds' AS last, revision AS since
    FROM candles_1m WHERE symbol = $1 AND time >= $2 AND time < $3 AND revision <= $4
), minutes AS (
    SELECT * FROM from_ticks WHERE NOT EXISTS (
        SELECT FROM from_candles candle WHERE candle.minute = from_ticks.minute AND candle.trades > from_ticks.trades)
    UNION ALL SELECT * FROM from_candles WHERE NOT EXISTS (
        SELECT FROM from_ticks ticks WHERE ticks.minute = from_candles.minute AND ticks.trades >= from_candles.trades)
)
SELECT (array_agg(open ORDER BY minute))[1] AS open, max(high) AS high, min(low) AS low,
       (array_agg(close ORDER BY minute DESC))[1] AS close, sum(volume)::text AS volume, sum(trades)::bigint AS trades,
       min(first) AS first, max(last) AS last, min(since) AS since
FROM minutes HAVING count(*) > 0";

/// The candle of the ticks of `base`, of a symbol with volumes in lots of `decimals`. `None` where there are no ticks.
///
/// # Errors
/// The database's.
pub async fn compute(connection: &mut AsyncPgConnection, base: &Base, decimals: u8) -> QueryResult<Option<Candle>> {
    let end_us = base.start_us + base.timeframe.micros();
    let found: Option<Row> = sql_query(BASE)
        .bind::<Text, _>(base.symbol.as_str())
        .bind::<Timestamptz, _>(to_datetime(base.start_us))
        .bind::<Timestamptz, _>(to_datetime(end_us))
        .bind::<BigInt, _>(base.revision.as_i64())
        .get_result(connection)
        .await
        .optional()?;
    let Some(row) = found else { return Ok(None) };
    let lots: i128 = row
        .volume
        .parse()
        .map_err(|error| diesel::result::Error::DeserializationError(Box::new(error)))?;
    Ok(Some(Candle {
        start_us: base.start_us,
        open: row.open,
        high: row.high,
        low: row.low,
        close: row.close,
        volume: Decimal::from_lots(lots, decimals),
        trades: row.trades,
        first_us: row.first.timestamp_micros(),
        last_us: row.last.timestamp_micros(),
        since: row.since.try_into().unwrap_or_default(),
        revision: base.revision,
    }))
}
