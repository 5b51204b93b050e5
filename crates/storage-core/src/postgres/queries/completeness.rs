//! The time from which `ticks` and `candles_1m` are complete: the border that retention leaves.
//!
//! Rows before the border are an incomplete rest, or were written late into a chunk that had been dropped, so no candle
//! is computed from them alone. The border is stored because chunks do not show it. It only moves forward.

use std::time::Duration;

use chrono::Utc;
use diesel::sql_types::{BigInt, Text, Timestamptz};
use diesel::{OptionalExtension, QueryResult, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::hypertables::hypertable_of;
use super::policies::{self, JobKind};
use crate::domain::time::to_datetime;
use crate::domain::timeframe::Timeframe;
use crate::postgres::columns::{BoolValue, TimeValue};
use crate::postgres::edition::Edition;

/// Returns the time from which `table` is complete, in µs since 1970; `None` if no rows were ever dropped from it.
pub async fn since(connection: &mut AsyncPgConnection, table: &str) -> QueryResult<Option<i64>> {
    let border: Option<TimeValue> = sql_query("SELECT since AS value FROM complete_since WHERE table_name = $1")
        .bind::<Text, _>(table)
        .get_result(connection)
        .await
        .optional()?;
    Ok(border.and_then(TimeValue::us))
}

/// Returns the start of the first bucket of `timeframe` that may be computed from `table`, in µs since 1970.
pub async fn first_bucket(connection: &mut AsyncPgConnection, table: &str, timeframe: Timeframe) -> QueryResult<i64> {
    let since_us = since(connection, table).await?;
    Ok(since_us.map_or(i64::MIN, |since_us| {
        timeframe.bucket_start_us(since_us - 1) + timeframe.micros()
    }))
}

/// Moves the borders past the rows that TimescaleDB's retention jobs drop, and past chunks of `candles_1m` that someone
/// dropped by hand. Call it before any computation from old rows.
pub async fn update_borders(connection: &mut AsyncPgConnection, edition: Edition) -> QueryResult<()> {
    for job in policies::jobs(connection, edition).await? {
        if let (JobKind::Retain, Some(kept)) = (job.kind, job.age) {
            advance_to_retention(connection, edition, &job.table, kept).await?;
        }
    }
    advance_to_chunks(connection, edition, Timeframe::M1.table()).await
}

/// Records that `table` may lack rows before `since_us`; a later border stays. Call it before dropping rows.
pub async fn advance(connection: &mut AsyncPgConnection, table: &str, since_us: i64) -> QueryResult<()> {
    // Reads first, so that a read-only role can compare the history while the border does not move.
    if since(connection, table).await? >= Some(since_us) {
        return Ok(());
    }
    sql_query(
        "INSERT INTO complete_since AS old (table_name, since) VALUES ($1, $2)
         ON CONFLICT (table_name) DO UPDATE SET since = excluded.since WHERE old.since < excluded.since",
    )
    .bind::<Text, _>(table)
    .bind::<Timestamptz, _>(to_datetime(since_us))
    .execute(connection)
    .await?;
    Ok(())
}

/// Chunks of the hypertable `$1`. One is late if a chunk of a later time was created before it, as late rows cause.
const CHUNKS: &str = "
WITH chunks AS MATERIALIZED (
    SELECT range_start, range_end, coalesce(chunk_creation_time > min(chunk_creation_time) OVER (
               ORDER BY range_start ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING), false) AS is_late
    FROM timescaledb_information.chunks
    WHERE to_regclass(format('%I.%I', hypertable_schema, hypertable_name)) = $1::regclass)";

/// Moves the border past the rows of `table` that a retention of `kept` drops now or at the next run of its policy.
pub async fn advance_to_retention(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    table: &str,
    kept: Duration,
) -> QueryResult<()> {
    let timeframe = Timeframe::ALL.into_iter().find(|timeframe| timeframe.table() == table);
    let hypertable = match timeframe {
        Some(timeframe) => hypertable_of(connection, edition, timeframe).await?,
        None => table.to_owned(),
    };
    let border: TimeValue = sql_query(format!(
        "{CHUNKS} SELECT coalesce(min(range_start), now() - make_interval(secs => $2)) AS value
         FROM chunks WHERE range_end > now() - make_interval(secs => $2)"
    ))
    .bind::<Text, _>(hypertable)
    .bind::<BigInt, _>(i64::try_from(kept.as_secs()).unwrap_or(i64::MAX))
    .get_result(connection)
    .await?;
    match border.us() {
        Some(since_us) => advance(connection, table, since_us).await,
        None => Ok(()),
    }
}

/// Moves the border past chunks of `table` that an operator dropped: a day has candles but no chunk, and no earlier
/// chunk is older than the later ones. A daily candle without 5-minute candles was written by hand. The border moves to
/// the oldest chunk that late rows did not create.
pub async fn advance_to_chunks(connection: &mut AsyncPgConnection, edition: Edition, table: &str) -> QueryResult<()> {
    let days = hypertable_of(connection, edition, Timeframe::D1).await?;
    let smaller = hypertable_of(connection, edition, Timeframe::M5).await?;
    let border: TimeValue = sql_query(format!(
        "{CHUNKS},
         known AS (SELECT coalesce((SELECT since FROM complete_since WHERE table_name = $1), '-infinity') AS since),
         oldest AS (SELECT min(range_start) AS start FROM chunks WHERE NOT is_late),
         days AS MATERIALIZED (
             SELECT DISTINCT time FROM {days}, known, oldest
             WHERE time >= known.since AND (time < oldest.start OR oldest.start IS NULL)),
         dropped AS (
             SELECT max(time) + INTERVAL '1 day' AS until FROM days
             WHERE NOT EXISTS (SELECT FROM chunks WHERE time >= range_start AND time < range_end)
               AND EXISTS (SELECT FROM {smaller} part
                           WHERE part.time >= days.time AND part.time < days.time + INTERVAL '1 day'))
         SELECT CASE WHEN until IS NOT NULL THEN coalesce(start, until) END AS value FROM dropped, oldest"
    ))
    .bind::<Text, _>(table)
    .get_result(connection)
    .await?;
    match border.us() {
        Some(since_us) => advance(connection, table, since_us).await,
        None => Ok(()),
    }
}

/// Returns `true` if ticks that a retention of `kept` drops arrived within the last hour and are not yet in the candle
/// of their day.
pub async fn has_uncounted_ticks(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    kept: Duration,
) -> QueryResult<bool> {
    // The largest timeframe is refreshed last. Smaller ones may have been dropped, so that it is joined from the ticks.
    let candles = hypertable_of(connection, edition, Timeframe::D1).await?;
    let recent_ms = (Utc::now() - Duration::from_secs(3_600)).timestamp_millis();
    let waiting: BoolValue = sql_query(format!(
        "SELECT EXISTS (
             SELECT FROM ticks LEFT JOIN {candles} candle
                 ON candle.symbol = ticks.symbol AND candle.time = time_bucket(INTERVAL '1 day', ticks.time)
             WHERE ticks.time < now() - make_interval(secs => $1)
               AND ticks.revision > $2 AND ticks.revision > coalesce(candle.revision, -1)
         ) AS value"
    ))
    .bind::<BigInt, _>(i64::try_from(kept.as_secs()).unwrap_or(i64::MAX))
    .bind::<BigInt, _>(recent_ms << 22)
    .get_result(connection)
    .await?;
    Ok(waiting.value)
}
