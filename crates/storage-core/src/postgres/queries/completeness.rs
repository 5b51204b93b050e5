//! From when on `ticks` and `candles_1m` are complete: the border that retention leaves.
//!
//! Rows before the border are what is left of a source, or came late into a chunk that was dropped, and nothing is computed
//! from them as if they were all. The border is stored, as chunks don't show it, and only moves forward.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::policies::{self, JobKind};
use super::rollups;
use crate::domain::time::to_datetime;
use crate::domain::timeframe::Timeframe;
use crate::postgres::edition::Edition;

#[derive(QueryableByName)]
struct Border {
    #[diesel(sql_type = Nullable<Timestamptz>)]
    since: Option<DateTime<Utc>>,
}

impl Border {
    fn since_us(self) -> Option<i64> {
        self.since.map(|since| since.timestamp_micros())
    }
}

/// Returns from when on `table` is complete, in µs since 1970; `None` if nothing was ever dropped from it.
///
/// # Errors
/// The database's.
pub async fn since(connection: &mut AsyncPgConnection, table: &str) -> QueryResult<Option<i64>> {
    let border: Option<Border> = sql_query("SELECT since FROM complete_since WHERE table_name = $1")
        .bind::<Text, _>(table)
        .get_result(connection)
        .await
        .optional()?;
    Ok(border.and_then(Border::since_us))
}

/// The start, in µs since 1970, of the first bucket of `timeframe` that may be computed from `table`.
///
/// # Errors
/// The database's.
pub async fn first_bucket(connection: &mut AsyncPgConnection, table: &str, timeframe: Timeframe) -> QueryResult<i64> {
    let since_us = since(connection, table).await?;
    Ok(since_us.map_or(i64::MIN, |since_us| {
        timeframe.bucket_start_us(since_us - 1) + timeframe.micros()
    }))
}

/// Notes what TimescaleDB's retention jobs drop, and what others dropped of `candles_1m`. Call it before anything is computed from
/// old rows.
///
/// # Errors
/// The database's.
pub async fn notice(connection: &mut AsyncPgConnection, edition: Edition) -> QueryResult<()> {
    for job in policies::jobs(connection, edition).await? {
        if let (JobKind::Retain, Some(kept)) = (job.kind, job.age) {
            advance_to_retention(connection, &job.table, kept).await?;
        }
    }
    advance_to_chunks(connection, edition, Timeframe::M1.table()).await
}

/// Notes that `table` may lack rows before `since_us`. A border that lies later stays. Call it before rows are dropped.
///
/// # Errors
/// The database's.
pub async fn advance(connection: &mut AsyncPgConnection, table: &str, since_us: i64) -> QueryResult<()> {
    // Looks first, so that a role that only reads can compare the history while nothing changes.
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

/// The chunks of a table, and which of them were created later than one of a later time: by late rows, as a rule.
const CHUNKS: &str = "
WITH chunks AS MATERIALIZED (
    SELECT range_start, range_end, coalesce(chunk_creation_time > min(chunk_creation_time) OVER (
               ORDER BY range_start ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING), false) AS is_late
    FROM timescaledb_information.chunks WHERE hypertable_schema = current_schema() AND hypertable_name = $1)";

/// Notes what a retention of `kept` drops of `table`, now or at any later moment of its policy.
///
/// # Errors
/// The database's.
pub async fn advance_to_retention(connection: &mut AsyncPgConnection, table: &str, kept: Duration) -> QueryResult<()> {
    let border: Border = sql_query(format!(
        "{CHUNKS} SELECT coalesce(min(range_start), now() - make_interval(secs => $2)) AS since
         FROM chunks WHERE range_end > now() - make_interval(secs => $2)"
    ))
    .bind::<Text, _>(table)
    .bind::<BigInt, _>(i64::try_from(kept.as_secs()).unwrap_or(i64::MAX))
    .get_result(connection)
    .await?;
    match border.since_us() {
        Some(since_us) => advance(connection, table, since_us).await,
        None => Ok(()),
    }
}

/// Notes what was dropped of `table` by others, such as an operator's `drop_chunks`: days have candles and no chunk, and no chunk
/// before them is older than the ones after. The border moves to the oldest chunk that was not created by late rows.
///
/// # Errors
/// The database's.
pub async fn advance_to_chunks(connection: &mut AsyncPgConnection, edition: Edition, table: &str) -> QueryResult<()> {
    let days = rollups::stored(connection, edition, Timeframe::D1).await?;
    let border: Border = sql_query(format!(
        "{CHUNKS},
         known AS (SELECT coalesce((SELECT since FROM complete_since WHERE table_name = $1), '-infinity') AS since),
         oldest AS (SELECT min(range_start) AS start FROM chunks WHERE NOT is_late),
         days AS MATERIALIZED (
             SELECT DISTINCT time FROM {days}, known, oldest WHERE time >= known.since AND (time < oldest.start OR oldest.start IS NULL)),
         dropped AS (
             SELECT max(time) + INTERVAL '1 day' AS until FROM days
             WHERE NOT EXISTS (SELECT FROM chunks WHERE time >= range_start AND time < range_end))
         SELECT CASE WHEN until IS NOT NULL THEN coalesce(start, until) END AS since FROM dropped, oldest"
    ))
    .bind::<Text, _>(table)
    .get_result(connection)
    .await?;
    match border.since_us() {
        Some(since_us) => advance(connection, table, since_us).await,
        None => Ok(()),
    }
}

#[derive(QueryableByName)]
struct Waiting {
    #[diesel(sql_type = Bool)]
    any: bool,
}

/// Returns `true` if ticks that a retention of `kept` drops came within the last hour and no larger candle counts them yet.
///
/// # Errors
/// The database's.
pub async fn has_uncounted_ticks(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    kept: Duration,
) -> QueryResult<bool> {
    let candles = rollups::stored(connection, edition, Timeframe::M5).await?;
    let recent_ms = (Utc::now() - Duration::from_secs(3_600)).timestamp_millis();
    let waiting: Waiting = sql_query(format!(
        "SELECT EXISTS (
             SELECT FROM ticks LEFT JOIN {candles} candle
                 ON candle.symbol = ticks.symbol AND candle.time = time_bucket(INTERVAL '5 minutes', ticks.time)
             WHERE ticks.time < now() - make_interval(secs => $1) AND ticks.revision > $2 AND ticks.revision > coalesce(candle.revision, -1)
         ) AS any"
    ))
    .bind::<BigInt, _>(i64::try_from(kept.as_secs()).unwrap_or(i64::MAX))
    .bind::<BigInt, _>(recent_ms << 22)
    .get_result(connection)
    .await?;
    Ok(waiting.any)
}
