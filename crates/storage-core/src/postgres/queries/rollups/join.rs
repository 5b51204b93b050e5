//! Joining late ticks into candles whose source is no longer complete.
//!
//! The revision of a candle identifies the ticks that it counts. If `ticks` still holds as many ticks up to that
//! revision as the candle counts, the candle is computed from them again. If some were dropped, the ticks after that
//! revision are added to the candle; doing so twice changes nothing, and no tick is ever removed. The order of late and
//! dropped ticks is unknown, so the late ones set the close.

use diesel::sql_types::Timestamptz;
use diesel::{QueryResult, sql_query};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use crate::domain::time::{TimeRange, to_datetime};
use crate::domain::timeframe::Timeframe;
use crate::postgres::queries::hypertables::chunk_ranges;
use crate::postgres::queries::rollups::exclusive;

/// Joins the ticks of `range`, which consists of whole buckets of `timeframe`, into the candles of the hypertable
/// `target`.
pub(super) async fn join(
    connection: &mut AsyncPgConnection,
    target: &str,
    timeframe: Timeframe,
    range: TimeRange,
) -> QueryResult<()> {
    let chunks = TimeRange::merge(chunk_ranges(connection, "ticks").await?, 0);
    for part in range.parts_in(&chunks) {
        for day in part.widened_to(timeframe).pieces(Timeframe::D1.micros()) {
            join_day(connection, target, timeframe, day).await?;
        }
    }
    Ok(())
}

async fn join_day(
    connection: &mut AsyncPgConnection,
    target: &str,
    timeframe: Timeframe,
    range: TimeRange,
) -> QueryResult<()> {
    let seconds = timeframe.seconds();
    // The range is a condition on each table, so that the plan excludes the chunks of other times. A continuous
    // aggregate has no unique index, so ON CONFLICT is impossible. Symbols come from their own table because the
    // primary key of `ticks` begins with the symbol.
    let join = format!(
        "WITH buckets AS MATERIALIZED (
             SELECT symbol, bucket FROM symbols CROSS JOIN LATERAL (
                 SELECT DISTINCT time_bucket(INTERVAL '{seconds} seconds', time) AS bucket FROM ticks
                 WHERE ticks.symbol = symbols.symbol AND time >= $1 AND time < $2) traded),
         held AS MATERIALIZED (
             SELECT buckets.symbol, bucket, candle.*, (
                 SELECT count(*) >= candle.trades FROM ticks
                 WHERE ticks.symbol = buckets.symbol AND time >= $1 AND time < $2
                   AND time >= bucket AND time < bucket + INTERVAL '{seconds} seconds'
                   AND revision <= candle.revision) AS has_all_ticks
             FROM buckets LEFT JOIN LATERAL (
                 SELECT open, high, low, close, volume, trades, revision FROM {target} candle
                 WHERE candle.symbol = buckets.symbol AND candle.time = bucket
                   AND candle.time >= $1 AND candle.time < $2) candle ON true),
         joined AS MATERIALIZED (
             SELECT symbol, bucket, held.revision IS NOT NULL AS is_held, coalesce(rest.open, late.open) AS open,
                    greatest(rest.high, late.high) AS high, least(rest.low, late.low) AS low, late.close,
                    coalesce(rest.volume, 0) + late.volume AS volume, coalesce(rest.trades, 0) + late.trades AS trades,
                    greatest(held.revision, late.revision) AS revision
             FROM held
             LEFT JOIN LATERAL (
                 SELECT held.open, held.high, held.low, held.volume, held.trades WHERE NOT has_all_ticks) rest ON true
             CROSS JOIN LATERAL (
                 SELECT (array_agg(price ORDER BY time, ticks.revision))[1] AS open,
                        max(price) AS high, min(price) AS low,
                        (array_agg(price ORDER BY time DESC, ticks.revision DESC))[1] AS close,
                        sum(lots) AS volume, count(*) AS trades, max(ticks.revision) AS revision
                 FROM ticks
                 WHERE ticks.symbol = held.symbol AND time >= $1 AND time < $2
                   AND time >= bucket AND time < bucket + INTERVAL '{seconds} seconds'
                   AND (rest.trades IS NULL OR ticks.revision > held.revision)
                 HAVING count(*) > 0) late),
         changed AS (
             UPDATE {target} candle SET open = joined.open, high = joined.high, low = joined.low, close = joined.close,
                    volume = joined.volume, trades = joined.trades, revision = joined.revision
             FROM joined
             WHERE is_held AND candle.symbol = joined.symbol AND candle.time = bucket
               AND candle.time >= $1 AND candle.time < $2
               AND (candle.open, candle.high, candle.low, candle.close,
                    candle.volume, candle.trades, candle.revision)
                   IS DISTINCT FROM (joined.open, joined.high, joined.low, joined.close,
                                     joined.volume, joined.trades, joined.revision))
         INSERT INTO {target} (time, symbol, open, high, low, close, volume, trades, revision)
         SELECT bucket, symbol, open, high, low, close, volume, trades, revision FROM joined WHERE NOT is_held"
    );
    connection
        .transaction(async |connection| {
            connection.batch_execute("SET LOCAL statement_timeout = 0").await?;
            exclusive::lock_table(connection, timeframe.table()).await?;
            sql_query(join)
                .bind::<Timestamptz, _>(to_datetime(range.from_us))
                .bind::<Timestamptz, _>(to_datetime(range.to_us))
                .execute(connection)
                .await?;
            Ok(())
        })
        .await
}
