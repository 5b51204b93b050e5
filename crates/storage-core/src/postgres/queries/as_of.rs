//! Candles as they were known at an earlier time, computed from the versions of the ticks.

use diesel::sql_types::{BigInt, Text, Timestamptz};
use diesel::{QueryResult, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::candles::{HistoryCandle, RECENT};
use super::completeness;
use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::time::{TimeRange, to_datetime};
use crate::domain::timeframe::Timeframe;

/// Returns the start of the first candle of `timeframe` that `ticks` contains in full, in µs since 1970; `None` if
/// retention has dropped no ticks.
pub async fn complete_from(connection: &mut AsyncPgConnection, timeframe: Timeframe) -> QueryResult<Option<i64>> {
    let first_us = completeness::first_bucket(connection, "ticks", timeframe).await?;
    Ok((first_us != i64::MIN).then_some(first_us))
}

/// Computes the newest `limit` candles of `symbol` that start in `range`, oldest first, of the entries up to `until`:
/// without later trades, and with the values that corrected and busted trades had then.
pub async fn candles(
    connection: &mut AsyncPgConnection,
    timeframe: Timeframe,
    symbol: &Symbol,
    range: TimeRange,
    until: Revision,
    limit: i64,
) -> QueryResult<Vec<HistoryCandle>> {
    // As for present candles, all ticks are read only if recent ones don't suffice.
    let length_us = limit.saturating_mul(RECENT * timeframe.micros());
    let recent = TimeRange {
        from_us: timeframe
            .bucket_start_us(range.to_us.saturating_sub(length_us))
            .max(range.from_us),
        ..range
    };
    let mut candles = newest_of(connection, timeframe, symbol, recent, until, limit).await?;
    if recent != range && i64::try_from(candles.len()) != Ok(limit) {
        candles = newest_of(connection, timeframe, symbol, range, until, limit).await?;
    }
    candles.reverse();
    Ok(candles)
}

async fn newest_of(
    connection: &mut AsyncPgConnection,
    timeframe: Timeframe,
    symbol: &Symbol,
    range: TimeRange,
    until: Revision,
    limit: i64,
) -> QueryResult<Vec<HistoryCandle>> {
    sql_query(format!(
        "WITH amended AS (
             SELECT DISTINCT ON (time, trade_no, trade_key) time, price, qty, revision FROM tick_versions
             WHERE symbol = $1 AND time >= $2 AND time < $3 AND revision <= $4
             ORDER BY time, trade_no, trade_key, revision DESC),
         known AS (
             SELECT time, price, qty, revision FROM amended WHERE price IS NOT NULL
             UNION ALL
             SELECT time, price, lots_to_units(lots, coalesce(
                        (SELECT volume_decimals FROM symbols WHERE symbol = $1), 8::smallint)), revision
             FROM ticks
             WHERE symbol = $1 AND time >= $2 AND time < $3 AND revision <= $4
               AND NOT EXISTS (
                   SELECT FROM tick_versions version
                   WHERE version.symbol = $1 AND version.time = ticks.time
                     AND (version.trade_no, version.trade_key) = (ticks.trade_no, ticks.trade_key)))
         SELECT time_bucket(INTERVAL '{} seconds', time) AS time,
                (array_agg(price ORDER BY time, revision))[1] AS open, max(price) AS high, min(price) AS low,
                (array_agg(price ORDER BY time DESC, revision DESC))[1] AS close,
                sum(qty)::text AS volume, count(*) AS trades, max(revision) AS revision
         FROM known GROUP BY 1 ORDER BY 1 DESC LIMIT $5",
        timeframe.seconds()
    ))
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(range.from_us))
    .bind::<Timestamptz, _>(to_datetime(range.to_us))
    .bind::<BigInt, _>(until.as_i64())
    .bind::<BigInt, _>(limit)
    .get_results(connection)
    .await
}
