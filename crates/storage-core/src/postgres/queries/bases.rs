//! The beginning of a candle that hot-writer has lost, computed from `ticks` and `candles_1m`.

use diesel::sql_types::{BigInt, SmallInt, Text, Timestamptz};
use diesel::{OptionalExtension, QueryResult, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::candles::ComputedCandle;
use crate::domain::candle::Candle;
use crate::domain::time::to_datetime;
use crate::redis::codec::repairs::Base;

// The base is computed minute by minute: if retention has dropped ticks of a minute, its candle counts more trades and
// is taken, without the times of its first and last tick. A candle may still count busted trades, which are known by
// their last version, without a price. No joins: the planner doesn't know how many minutes there are.
const BASE: &str = "
WITH trades AS (
    SELECT time, price, lots, revision FROM ticks
    WHERE symbol = $1 AND time >= $2 AND time < $3 AND revision <= $4
    UNION ALL
    SELECT * FROM (
        SELECT DISTINCT ON (time, trade_no, trade_key) time, price, 0, revision FROM tick_versions
        WHERE symbol = $1 AND time >= $2 AND time < $3 ORDER BY time, trade_no, trade_key, revision DESC) latest
    WHERE price IS NULL
), sources AS (
    SELECT date_trunc('minute', time, 'UTC') AS minute, count(*) AS known, true AS is_exact,
           (array_agg(price ORDER BY time, revision) FILTER (WHERE price IS NOT NULL))[1] AS open,
           max(price) AS high, min(price) AS low,
           (array_agg(price ORDER BY time DESC, revision DESC) FILTER (WHERE price IS NOT NULL))[1] AS close,
           sum(lots) AS volume, count(price) AS trades, min(time) FILTER (WHERE price IS NOT NULL) AS first,
           max(time) FILTER (WHERE price IS NOT NULL) AS last, min(revision) FILTER (WHERE price IS NOT NULL) AS since
    FROM trades GROUP BY 1
    UNION ALL
    SELECT time, trades, false, open, high, low, close, volume, trades, time, time + interval '59.999999 seconds',
           revision
    FROM candles_1m WHERE symbol = $1 AND time >= $2 AND time < $3 AND revision <= $4
), minutes AS (
    SELECT DISTINCT ON (minute) * FROM sources ORDER BY minute, known DESC, is_exact DESC
)
SELECT $2 AS time, (array_agg(open ORDER BY minute))[1] AS open, max(high) AS high, min(low) AS low,
       (array_agg(close ORDER BY minute DESC))[1] AS close, lots_to_units(sum(volume), $5)::text AS volume,
       sum(trades)::bigint AS trades, $4 AS revision, min(first) AS first, max(last) AS last, min(since) AS since
FROM minutes WHERE trades > 0 HAVING count(*) > 0";

/// Computes the candle of the ticks of `base`, whose symbol has volumes in lots of `decimals`. `None` if there are no
/// ticks.
pub async fn compute(connection: &mut AsyncPgConnection, base: &Base, decimals: u8) -> QueryResult<Option<Candle>> {
    let end_us = base.start_us + base.timeframe.micros();
    let found: Option<ComputedCandle> = sql_query(BASE)
        .bind::<Text, _>(base.symbol.as_str())
        .bind::<Timestamptz, _>(to_datetime(base.start_us))
        .bind::<Timestamptz, _>(to_datetime(end_us))
        .bind::<BigInt, _>(base.revision.as_i64())
        .bind::<SmallInt, _>(i16::from(decimals))
        .get_result(connection)
        .await
        .optional()?;
    Ok(found.map(Candle::from))
}
