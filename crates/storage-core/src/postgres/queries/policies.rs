//! TimescaleDB's jobs: listing them, changing their settings, and running them on a server without a scheduler.

use std::time::Duration;

use diesel::sql_types::{BigInt, Integer, Jsonb, Nullable, Text};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use super::maintenance;
use super::rollups::exclusive;
use crate::postgres::edition::Edition;

/// Kind of a job, in the order in which jobs should run: retention must not drop rows that a refresh still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobKind {
    /// Refreshes a continuous aggregate.
    Refresh,
    /// Compresses old chunks.
    Compress,
    /// Drops old chunks.
    Retain,
}

/// A policy of a table.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Number of the job in TimescaleDB.
    pub id: i32,
    /// Kind of the job.
    pub kind: JobKind,
    /// Table or continuous aggregate of the job, such as `candles_1m` or `candles_1d`.
    pub table: String,
    /// Interval between two runs.
    pub every: Duration,
    /// Age up to which buckets are refreshed, or from which chunks are compressed or dropped.
    pub age: Option<Duration>,
    /// Settings of the job in TimescaleDB: `start_offset`, `end_offset`, `compress_after`, `drop_after`.
    pub config: Value,
}

impl JobKind {
    /// Returns the name in metrics and reports.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Refresh => "refresh",
            Self::Compress => "compress",
            Self::Retain => "retain",
        }
    }

    /// Returns the setting that holds [`Job::age`].
    const fn setting(self) -> &'static str {
        match self {
            Self::Refresh => "start_offset",
            Self::Compress => "compress_after",
            Self::Retain => "drop_after",
        }
    }
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Integer)]
    id: i32,
    #[diesel(sql_type = Text)]
    proc_name: String,
    #[diesel(sql_type = Text)]
    table_name: String,
    #[diesel(sql_type = BigInt)]
    every_seconds: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    age_seconds: Option<i64>,
    #[diesel(sql_type = Jsonb)]
    config: Value,
}

/// Lists the policies in the order in which they should run, refreshes of small timeframes first. The Apache edition
/// has none.
pub async fn jobs(connection: &mut AsyncPgConnection, edition: Edition) -> QueryResult<Vec<Job>> {
    if edition == Edition::Apache {
        return Ok(Vec::new());
    }
    // For a continuous aggregate, some versions return the name of the view and others that of its hypertable.
    let rows: Vec<Row> = sql_query(
        "SELECT job_id AS id, proc_name::text, coalesce(view_name, hypertable_name)::text AS table_name,
                extract(epoch FROM schedule_interval)::bigint AS every_seconds,
                extract(epoch FROM coalesce(
                    config->>'start_offset', config->>'compress_after', config->>'drop_after')::interval
                )::bigint AS age_seconds,
                coalesce(config, '{}'::jsonb) AS config
         FROM timescaledb_information.jobs
         LEFT JOIN (SELECT view_name, materialization_hypertable_name AS hypertable_name
                    FROM timescaledb_information.continuous_aggregates) rollups USING (hypertable_name)
         WHERE hypertable_name IS NOT NULL
         ORDER BY job_id",
    )
    .get_results(connection)
    .await?;
    let mut jobs: Vec<Job> = rows.into_iter().filter_map(Row::into_job).collect();
    jobs.sort_by_key(|job| (job.kind, job.id));
    Ok(jobs)
}

impl Row {
    fn into_job(self) -> Option<Job> {
        let kind = match self.proc_name.as_str() {
            "policy_refresh_continuous_aggregate" => JobKind::Refresh,
            "policy_compression" => JobKind::Compress,
            "policy_retention" => JobKind::Retain,
            _ => return None,
        };
        let every = Duration::from_secs(u64::try_from(self.every_seconds).ok()?);
        Some(Job {
            id: self.id,
            kind,
            table: self.table_name,
            every,
            age: self
                .age_seconds
                .and_then(|seconds| u64::try_from(seconds).ok())
                .map(Duration::from_secs),
            config: self.config,
        })
    }
}

/// Runs a job in this session, outside a transaction. TimescaleDB does not record the run, so the caller must remember
/// its time.
pub async fn run_job(connection: &mut AsyncPgConnection, job: &Job) -> QueryResult<()> {
    let call = format!("CALL run_job({})", job.id);
    match job.kind {
        JobKind::Refresh => exclusive::run(connection, &job.table, &[call]).await,
        JobKind::Compress | JobKind::Retain => maintenance::call(connection, &call).await,
    }
}

/// Changes the [`age`](Job::age) of a job.
pub async fn set_age(connection: &mut AsyncPgConnection, job: &Job, age: Duration) -> QueryResult<()> {
    sql_query(
        "SELECT alter_job(job_id, config => config || jsonb_build_object($2, $3))
         FROM timescaledb_information.jobs WHERE job_id = $1",
    )
    .bind::<Integer, _>(job.id)
    .bind::<Text, _>(job.kind.setting())
    .bind::<Text, _>(format!("{} seconds", age.as_secs()))
    .execute(connection)
    .await?;
    Ok(())
}

/// Adds a policy that drops chunks of `table` entirely older than `age`.
pub async fn add_retention(connection: &mut AsyncPgConnection, table: &str, age: Duration) -> QueryResult<()> {
    sql_query("SELECT add_retention_policy($1::regclass, drop_after => make_interval(secs => $2))")
        .bind::<Text, _>(table)
        .bind::<BigInt, _>(i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(())
}

/// Removes the retention policy of `table`.
pub async fn remove_retention(connection: &mut AsyncPgConnection, table: &str) -> QueryResult<()> {
    sql_query("SELECT remove_retention_policy($1::regclass)")
        .bind::<Text, _>(table)
        .execute(connection)
        .await?;
    Ok(())
}

/// Drops chunks of `table` entirely older than `age`, and returns their number; for the Apache edition, which has no
/// policies.
pub async fn drop_chunks(connection: &mut AsyncPgConnection, table: &str, age: Duration) -> QueryResult<usize> {
    sql_query("SELECT drop_chunks($1::regclass, older_than => make_interval(secs => $2))")
        .bind::<Text, _>(table)
        .bind::<BigInt, _>(i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
        .execute(connection)
        .await
}
