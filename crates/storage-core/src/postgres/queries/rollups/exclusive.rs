//! Mutual exclusion of refreshes.
//!
//! Overlapping refreshes of a continuous aggregate leave duplicate rows on TimescaleDB 2.21.0 to 2.26.2, and fail with
//! 55P03 on later versions. A refresh and a compression of the same chunks fail with a deadlock. The refreshes of this
//! system exclude each other by a session-level advisory lock. TimescaleDB's jobs take no lock that a session could
//! hold, so the next starts of the aggregate's jobs are postponed, and running jobs are awaited. A refresh whose
//! process dies delays the jobs by [`POSTPONEMENT`]; if it disabled the jobs instead, they would stay disabled.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::sql_types::{Bool, Integer, Nullable, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::time::{Instant, sleep};

use crate::postgres::error::{describe, is_conflict};
use crate::postgres::queries::maintenance;

/// Class of the advisory locks, an arbitrary number that no other lock uses.
const LOCKS: i32 = 0x726f_6c6c;
/// Time by which the jobs are postponed; a portion of a refresh takes less.
const POSTPONEMENT: Duration = Duration::from_secs(900);
/// Time before its start from which the scheduler may be starting a job.
const STARTING: Duration = Duration::from_secs(2);
/// Pause between two checks of the jobs, and between two attempts.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest wait for a job, and longest time in which a portion is repeated after conflicts.
const MAX_WAIT: Duration = Duration::from_secs(600);

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
    let called = without_jobs(connection, table, calls).await;
    let unlocked = maintenance::call(connection, &lock("pg_advisory_unlock")).await;
    called.and(unlocked)
}

async fn without_jobs(connection: &mut AsyncPgConnection, table: &str, calls: &[String]) -> QueryResult<()> {
    let postponed = postpone(connection, table).await?;
    let called = call_each(connection, &postponed, calls).await;
    for job in postponed {
        start_at(connection, &job, job.next_start.unwrap_or_else(Utc::now)).await?;
    }
    called
}

async fn call_each(connection: &mut AsyncPgConnection, postponed: &[Job], calls: &[String]) -> QueryResult<()> {
    let mut renewed = Instant::now();
    for call in calls {
        let deadline = Instant::now() + MAX_WAIT;
        loop {
            match maintenance::call(connection, call).await {
                Err(error) if is_conflict(&error) && Instant::now() < deadline => sleep(PAUSE).await,
                called => break called?,
            }
        }
        if renewed.elapsed() > POSTPONEMENT / 3 {
            for job in postponed {
                start_at(connection, job, Utc::now() + POSTPONEMENT).await?;
            }
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

/// Postpones the jobs of `table`, waits until none of them runs, and returns them as they were.
async fn postpone(connection: &mut AsyncPgConnection, table: &str) -> QueryResult<Vec<Job>> {
    let deadline = Instant::now() + MAX_WAIT;
    let mut postponed = Vec::new();
    for job in jobs(connection, table).await? {
        // A job that runs keeps the time after its end.
        match start_at(connection, &job, Utc::now() + POSTPONEMENT).await {
            Ok(()) => postponed.push(job),
            Err(error) => tracing::warn!(table, "could not postpone a job: {}", describe(&error)),
        }
    }
    let soon = Utc::now() + STARTING;
    let is_due = |job: &Job| job.is_running || job.next_start.is_none_or(|start| start < soon);
    // The scheduler may have started a job that was due.
    let mut may_run = postponed.iter().any(is_due);
    while may_run {
        if Instant::now() > deadline {
            tracing::warn!(
                table,
                "a job is still running after {MAX_WAIT:?}; refreshing at the same time"
            );
            break;
        }
        sleep(PAUSE).await;
        may_run = jobs(connection, table).await?.iter().any(|job| job.is_running);
    }
    Ok(postponed)
}

/// Lists the jobs that write into the continuous aggregate `table`; none without a scheduler. The scheduler records the
/// start of a job before the job's process appears, and resets its result until the end.
async fn jobs(connection: &mut AsyncPgConnection, table: &str) -> QueryResult<Vec<Job>> {
    sql_query(
        "SELECT job_id, CASE WHEN isfinite(stats.next_start) THEN stats.next_start END AS next_start,
                stats.job_status IS NOT DISTINCT FROM 'Running' OR coalesce(
                    stats.last_run_status IS NULL AND stats.last_run_started_at > now() - INTERVAL '10 seconds', false
                ) AS is_running
         FROM timescaledb_information.jobs JOIN timescaledb_information.job_stats stats USING (job_id)
         JOIN timescaledb_information.continuous_aggregates rollups
             ON jobs.hypertable_name IN (rollups.view_name, rollups.materialization_hypertable_name)
         WHERE proc_name IN ('policy_refresh_continuous_aggregate', 'policy_compression')
           AND view_schema = current_schema() AND view_name = $1
           AND current_setting('embedded.single_session', true) IS DISTINCT FROM 'on'
           AND current_setting('timescaledb.max_background_workers', true) IS DISTINCT FROM '0'
         ORDER BY job_id",
    )
    .bind::<Text, _>(table)
    .get_results(connection)
    .await
}

async fn start_at(connection: &mut AsyncPgConnection, job: &Job, next_start: DateTime<Utc>) -> QueryResult<()> {
    sql_query("SELECT alter_job($1, next_start => $2)")
        .bind::<Integer, _>(job.job_id)
        .bind::<Timestamptz, _>(next_start)
        .execute(connection)
        .await?;
    Ok(())
}
