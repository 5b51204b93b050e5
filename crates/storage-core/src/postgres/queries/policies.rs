//! TimescaleDB's jobs: which there are, what they are set to, and running one where the server has no scheduler.

use std::time::Duration;

use diesel::sql_types::{BigInt, Integer, Jsonb, Nullable, Text};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use super::maintenance;
use super::rollups::exclusive;
use crate::postgres::edition::Edition;

/// What a job does. In the order in which they should run: retention must not drop what a refresh still reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobKind {
    /// Brings a continuous aggregate up to date.
    Refresh,
    /// Compresses old chunks.
    Compress,
    /// Drops old chunks.
    Retain,
}

/// A policy of one of our tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// TimescaleDB's number of it.
    pub id: i32,
    /// What it does.
    pub kind: JobKind,
    /// The table or continuous aggregate it works on: `candles_1m`, `candles_1d`, …
    pub table: String,
    /// How often it runs.
    pub every: Duration,
    /// The age that it goes by: how far back a refresh reaches, or from when on chunks are compressed or dropped.
    pub age: Option<Duration>,
    /// Its settings, as TimescaleDB keeps them: `start_offset`, `end_offset`, `compress_after`, `drop_after`.
    pub config: Value,
}

impl JobKind {
    /// The setting that [`Job::age`] is.
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

/// The policies, refreshes of small timeframes first, as they should run; none on the Apache edition.
///
/// # Errors
/// The database's.
pub async fn jobs(connection: &mut AsyncPgConnection, edition: Edition) -> QueryResult<Vec<Job>> {
    if edition == Edition::Apache {
        return Ok(Vec::new());
    }
    // Versions differ in which of its two names they give for a continuous aggregate.
    let rows: Vec<Row> = sql_query(
        "SELECT job_id AS id, proc_name::text, coalesce(view_name, hypertable_name)::text AS table_name,
                extract(epoch FROM schedule_interval)::bigint AS every_seconds,
                extract(epoch FROM coalesce(config->>'start_offset', config->>'compress_after', config->>'drop_after')::interval)::bigint
                    AS age_seconds,
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

/// Runs a job now, in this session. Not for use inside a transaction. TimescaleDB does not count such a run in its own
/// statistics, so who runs jobs remembers when.
///
/// # Errors
/// The database's.
pub async fn run_job(connection: &mut AsyncPgConnection, job: &Job) -> QueryResult<()> {
    let call = format!("CALL run_job({})", job.id);
    match job.kind {
        JobKind::Refresh => exclusive::run(connection, &job.table, &[call]).await,
        JobKind::Compress | JobKind::Retain => maintenance::call(connection, &call).await,
    }
}

/// Gives a job another [`age`](Job::age).
///
/// # Errors
/// The database's.
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

/// Drops chunks of `table` that are wholly older than `age`, from now on.
///
/// # Errors
/// The database's.
pub async fn add_retention(connection: &mut AsyncPgConnection, table: &str, age: Duration) -> QueryResult<()> {
    sql_query("SELECT add_retention_policy($1::regclass, drop_after => make_interval(secs => $2))")
        .bind::<Text, _>(table)
        .bind::<BigInt, _>(i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(())
}

/// Keeps all chunks of `table` from now on.
///
/// # Errors
/// The database's.
pub async fn remove_retention(connection: &mut AsyncPgConnection, table: &str) -> QueryResult<()> {
    sql_query("SELECT remove_retention_policy($1::regclass)")
        .bind::<Text, _>(table)
        .execute(connection)
        .await?;
    Ok(())
}

/// Drops chunks of `table` that are wholly older than `age`, now; for the Apache edition, which has no policies. Returns how
/// many were dropped.
///
/// # Errors
/// The database's.
pub async fn drop_chunks(connection: &mut AsyncPgConnection, table: &str, age: Duration) -> QueryResult<usize> {
    sql_query("SELECT drop_chunks($1::regclass, older_than => make_interval(secs => $2))")
        .bind::<Text, _>(table)
        .bind::<BigInt, _>(i64::try_from(age.as_secs()).unwrap_or(i64::MAX))
        .execute(connection)
        .await
}
