//! Mutual exclusion of refreshes.
//!
//! Overlapping refreshes of a continuous aggregate leave duplicate rows on TimescaleDB 2.21.0 to 2.26.2, and fail with
//! 55P03 on later versions. The refreshes of this system exclude each other by a session-level advisory lock.
//! TimescaleDB's jobs take no lock that a session could hold, so the next start of the aggregate's job is postponed,
//! and a running job is awaited. A refresh whose process dies delays the job by [`POSTPONEMENT`]; if it disabled the
//! job instead, the job would stay disabled.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::sql_types::{Bool, Integer, Nullable, Text, Timestamptz};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::time::{Instant, sleep};

use crate::postgres::error::{describe, sqlstate};
use crate::postgres::queries::maintenance;

/// Class of the advisory locks, an arbitrary number that no other lock uses.
const LOCKS: i32 = 0x726f_6c6c;
/// Time by which the job is postponed; a portion of a refresh takes less.
const POSTPONEMENT: Duration = Duration::from_secs(900);
/// Time before its start from which the scheduler may be starting a job.
const STARTING: Duration = Duration::from_secs(2);
/// Pause between two checks of the job, and between two attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest wait for another refresh.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// SQLSTATE of a refresh during another one.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Makes other transactions that refresh or join candles of `table` wait until the end of this transaction. Without it,
/// each of two transactions with overlapping ranges could read before the other writes.
pub(super) async fn lock_table(connection: &mut AsyncPgConnection, table: &str) -> QueryResult<()> {
    sql_query("SELECT pg_advisory_xact_lock(hashtext($1))")
        .bind::<Text, _>(table)
        .execute(connection)
        .await?;
    Ok(())
}

/// Runs `calls`, which refresh the continuous aggregate `table`, while no other refresh of it runs.
pub(in crate::postgres::queries) async fn run(
    connection: &mut AsyncPgConnection,
    table: &str,
    calls: &[String],
) -> QueryResult<()> {
    if calls.is_empty() {
        return Ok(());
    }
    let lock = |function: &str| format!("SELECT {function}({LOCKS}, hashtext('{table}'))");
    maintenance::call(connection, &lock("pg_advisory_lock")).await?;
    let called = without_job(connection, table, calls).await;
    let unlocked = maintenance::call(connection, &lock("pg_advisory_unlock")).await;
    called.and(unlocked)
}

async fn without_job(connection: &mut AsyncPgConnection, table: &str, calls: &[String]) -> QueryResult<()> {
    let job = postpone(connection, table).await?;
    let called = call_each(connection, job.as_ref(), calls).await;
    if let Some(job) = job {
        start_at(connection, &job, job.next_start.unwrap_or_else(Utc::now)).await?;
    }
    called
}

async fn call_each(connection: &mut AsyncPgConnection, job: Option<&Job>, calls: &[String]) -> QueryResult<()> {
    let mut renewed = Instant::now();
    for call in calls {
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            match maintenance::call(connection, call).await {
                Err(error) if sqlstate(&error) == Some(LOCK_NOT_AVAILABLE) && Instant::now() < deadline => {
                    sleep(PAUSE).await;
                }
                called => break called?,
            }
        }
        if let Some(job) = job
            && renewed.elapsed() > POSTPONEMENT / 3
        {
            start_at(connection, job, Utc::now() + POSTPONEMENT).await?;
            renewed = Instant::now();
        }
    }
    Ok(())
}

#[derive(QueryableByName)]
struct Job {
    #[diesel(sql_type = Integer)]
    job_id: i32,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    next_start: Option<DateTime<Utc>>,
    #[diesel(sql_type = Bool)]
    is_running: bool,
}

/// Postpones the refresh job of `table` and waits until it does not run. Returns the job as it was; `None` if there is
/// no job or no scheduler.
async fn postpone(connection: &mut AsyncPgConnection, table: &str) -> QueryResult<Option<Job>> {
    let deadline = Instant::now() + MAX_WAIT;
    loop {
        let Some(job) = job(connection, table).await? else {
            return Ok(None);
        };
        if !job.is_running {
            if let Err(error) = start_at(connection, &job, Utc::now() + POSTPONEMENT).await {
                tracing::warn!(table, "could not postpone the refresh job: {}", describe(&error));
                return Ok(None);
            }
            let soon = Utc::now() + STARTING;
            if job.next_start.is_some_and(|start| start > soon) {
                return Ok(Some(job));
            }
            // The scheduler may have started the job just before, and reports it with a delay.
            sleep(PAUSE).await;
            if !self::job(connection, table).await?.is_some_and(|now| now.is_running) {
                return Ok(Some(job));
            }
        }
        if Instant::now() > deadline {
            tracing::warn!(
                table,
                "the refresh job is still running after {MAX_WAIT:?}; refreshing at the same time"
            );
            return Ok(None);
        }
        sleep(PAUSE).await;
    }
}

async fn job(connection: &mut AsyncPgConnection, table: &str) -> QueryResult<Option<Job>> {
    sql_query(
        "SELECT job_id, CASE WHEN isfinite(stats.next_start) THEN stats.next_start END AS next_start,
                stats.job_status IS NOT DISTINCT FROM 'Running' AS is_running
         FROM timescaledb_information.jobs JOIN timescaledb_information.job_stats stats USING (job_id)
         JOIN timescaledb_information.continuous_aggregates rollups
             ON jobs.hypertable_name IN (rollups.view_name, rollups.materialization_hypertable_name)
         WHERE proc_name = 'policy_refresh_continuous_aggregate' AND view_schema = current_schema() AND view_name = $1
           AND current_setting('embedded.single_session', true) IS DISTINCT FROM 'on'",
    )
    .bind::<Text, _>(table)
    .get_result(connection)
    .await
    .optional()
}

async fn start_at(connection: &mut AsyncPgConnection, job: &Job, next_start: DateTime<Utc>) -> QueryResult<()> {
    sql_query("SELECT alter_job($1, next_start => $2)")
        .bind::<Integer, _>(job.job_id)
        .bind::<Timestamptz, _>(next_start)
        .execute(connection)
        .await?;
    Ok(())
}
