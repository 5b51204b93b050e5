//! One refresh of a continuous aggregate at a time.
//!
//! Refreshes that overlap leave duplicate rows on TimescaleDB 2.21.0 to 2.26.2, and make each other fail (55P03) on later versions. Ours
//! exclude each other by an advisory lock of the session. TimescaleDB's own jobs take no lock that a session could hold, so the
//! next start of the aggregate's job is put off, and a job that runs is waited for. A refresher that dies delays the job by
//! [`PUT_OFF`], where a job that it had disabled would stay so.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::sql_types::{Bool, Integer, Nullable, Text, Timestamptz};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use tokio::time::{Instant, sleep};

use crate::postgres::error::{describe, sqlstate};
use crate::postgres::queries::maintenance;

/// The class of the advisory locks. The number means nothing; it must only be nobody else's.
const LOCKS: i32 = 0x726f_6c6c;
/// How long the job does not start. A portion of a refresh takes less.
const PUT_OFF: Duration = Duration::from_secs(900);
/// A job that is due within this time may be starting.
const STARTING: Duration = Duration::from_secs(2);
/// Pause between two looks, and before another attempt.
const PAUSE: Duration = Duration::from_millis(200);
/// How long others are waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// Another refresh holds a lock.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// Runs `calls`, which refresh the continuous aggregate `table`, while nobody else refreshes it.
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
    let job = put_off(connection, table).await?;
    let called = call_each(connection, job.as_ref(), calls).await;
    if let Some(job) = job {
        start_at(connection, &job, job.next_start.unwrap_or_else(Utc::now)).await?;
    }
    called
}

async fn call_each(connection: &mut AsyncPgConnection, job: Option<&Job>, calls: &[String]) -> QueryResult<()> {
    for call in calls {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match maintenance::call(connection, call).await {
                Err(error) if sqlstate(&error) == Some(LOCK_NOT_AVAILABLE) && Instant::now() < deadline => {
                    sleep(PAUSE).await;
                }
                called => break called?,
            }
        }
        if let Some(job) = job {
            start_at(connection, job, Utc::now() + PUT_OFF).await?;
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

/// Keeps the scheduler from starting the refresh job of `table`, and waits for one that runs. Returns the job as it was; `None` where
/// there is none, or no scheduler.
async fn put_off(connection: &mut AsyncPgConnection, table: &str) -> QueryResult<Option<Job>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Some(job) = job(connection, table).await? else {
            return Ok(None);
        };
        if !job.is_running {
            if let Err(error) = start_at(connection, &job, Utc::now() + PUT_OFF).await {
                tracing::warn!(table, "the refresh job can't be put off: {}", describe(&error));
                return Ok(None);
            }
            let soon = Utc::now() + STARTING;
            if job.next_start.is_some_and(|start| start > soon) {
                return Ok(Some(job));
            }
            // The scheduler may have started it just before, and then shows it a moment later.
            sleep(PAUSE).await;
            if !self::job(connection, table).await?.is_some_and(|now| now.is_running) {
                return Ok(Some(job));
            }
        }
        if Instant::now() > deadline {
            tracing::warn!(
                table,
                "the refresh job has been running for {PATIENCE:?}; refreshing beside it"
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
