//! The beginning of a candle that hot-writer has lost, computed from `ticks` and `candles_1m`.

use diesel::sql_types::{BigInt, SmallInt, Text, Timestamptz};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::candles::HistoryCandle;
use crate::domain::candle::Candle;
use crate::domain::stream_id::Revision;
use crate::domain::time::to_datetime;
use crate::postgres::columns::Micros;
use crate::redis::codec::repairs::Base;

#[derive(QueryableByName)]
struct Row {
    #[diesel(embed)]
    candle: HistoryCandle,
    #[diesel(sql_type = Timestamptz, column_name = first, deserialize_as = Micros)]
    first_us: i64,
    #[diesel(sql_type = Timestamptz, column_name = last, deserialize_as = Micros)]
    last_us: i64,
    #[diesel(sql_type = BigInt)]
    since: Revision,
}

// The base is computed minute by minute: if retention has dropped ticks of a minute, only its candle is known, without
// the times of its first and last tick. A candle may still count busted trades.
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
), busts AS (
    SELECT date_trunc('minute', time, 'UTC') AS minute, count(*) AS trades
    FROM (SELECT DISTINCT ON (time, trade_no, trade_key) time, price FROM tick_versions
          WHERE symbol = $1 AND time >= $2 AND time < $3 ORDER BY time, trade_no, trade_key, revision DESC) current
    WHERE price IS NULL GROUP BY 1
), with_trades AS (
    SELECT minute, coalesce(from_ticks.trades, 0) + coalesce(busts.trades, 0) AS trades
    FROM from_ticks FULL JOIN busts USING (minute)
), minutes AS (
    SELECT * FROM from_ticks WHERE NOT EXISTS (
        SELECT FROM from_candles candle JOIN with_trades USING (minute)
        WHERE candle.minute = from_ticks.minute AND candle.trades > with_trades.trades)
    UNION ALL SELECT * FROM from_candles WHERE NOT EXISTS (
        SELECT FROM with_trades WHERE with_trades.minute = from_candles.minute
            AND with_trades.trades >= from_candles.trades)
)
SELECT $2 AS time, (array_agg(open ORDER BY minute))[1] AS open, max(high) AS high, min(low) AS low,
       (array_agg(close ORDER BY minute DESC))[1] AS close, lots_to_units(sum(volume), $5)::text AS volume,
       sum(trades)::bigint AS trades, $4 AS revision, min(first) AS first, max(last) AS last, min(since) AS since
FROM minutes HAVING count(*) > 0";

/// Computes the candle of the ticks of `base`, whose symbol has volumes in lots of `decimals`. `None` if there are no
/// ticks.
pub async fn compute(connection: &mut AsyncPgConnection, base: &Base, decimals: u8) -> QueryResult<Option<Candle>> {
    let end_us = base.start_us + base.timeframe.micros();
    let found: Option<Row> = sql_query(BASE)
        .bind::<Text, _>(base.symbol.as_str())
        .bind::<Timestamptz, _>(to_datetime(base.start_us))
        .bind::<Timestamptz, _>(to_datetime(end_us))
        .bind::<BigInt, _>(base.revision.as_i64())
        .bind::<SmallInt, _>(i16::from(decimals))
        .get_result(connection)
        .await
        .optional()?;
    Ok(found.map(|row| Candle {
        start_us: row.candle.start_us,
        open: row.candle.open,
        high: row.candle.high,
        low: row.candle.low,
        close: row.candle.close,
        volume: row.candle.volume,
        trades: row.candle.trades,
        first_us: row.first_us,
        last_us: row.last_us,
        since: row.since,
        revision: base.revision,
    }))
}
