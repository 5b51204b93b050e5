//! TimescaleDB's jobs: listing them, changing their settings, and running them on a server without a scheduler.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Bool, Integer, Jsonb, Nullable, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use super::maintenance;
use super::rollups::exclusive;
use crate::postgres::columns::TextValue;
use crate::postgres::edition::Edition;
use crate::postgres::error::sqlstate;

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

/// Runs of a job by TimescaleDB's scheduler.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Runs {
    /// Number of the job in TimescaleDB.
    #[diesel(sql_type = Integer)]
    pub job_id: i32,
    /// Number of runs since the job was created.
    #[diesel(sql_type = BigInt)]
    pub runs: i64,
    /// Number of failed runs since the job was created.
    #[diesel(sql_type = BigInt)]
    pub failures: i64,
    /// `true` if the last run failed.
    #[diesel(sql_type = Bool)]
    pub is_failing: bool,
    /// Time of the last failure, if TimescaleDB still has its record.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub failed: Option<DateTime<Utc>>,
    /// Error of the last failure.
    #[diesel(sql_type = Nullable<Text>)]
    pub error: Option<String>,
}

/// Reads the runs of all jobs by TimescaleDB's scheduler. [`run_job`] is not among them.
pub async fn runs(connection: &mut AsyncPgConnection, edition: Edition) -> QueryResult<Vec<Runs>> {
    if edition == Edition::Apache {
        return Ok(Vec::new());
    }
    sql_query(
        "SELECT job_id, coalesce(total_runs, 0) AS runs, coalesce(total_failures, 0) AS failures,
                last_run_status IS NOT DISTINCT FROM 'Failed' AS is_failing, failed, error
         FROM timescaledb_information.job_stats
         LEFT JOIN (SELECT DISTINCT ON (job_id) job_id, coalesce(finish_time, start_time) AS failed,
                           err_message AS error
                    FROM timescaledb_information.job_errors ORDER BY job_id, start_time DESC) last USING (job_id)
         ORDER BY job_id",
    )
    .get_results(connection)
    .await
}

/// Changes the [`age`](Job::age) and the [interval](Job::every) of a job.
pub async fn alter(connection: &mut AsyncPgConnection, job: &Job, age: Duration, every: Duration) -> QueryResult<()> {
    let altered = connection
        .transaction(async |connection| alter_job(connection, job, age, every).await)
        .await;
    match altered {
        // TimescaleDB 2.22.1 to 2.23.0 takes the job for a second policy of a continuous aggregate on another one.
        Err(error) if job.kind == JobKind::Refresh && sqlstate(&error) == Some("0A000") => {
            replace_refresh(connection, job, age, every).await
        }
        altered => altered,
    }
}

async fn alter_job(connection: &mut AsyncPgConnection, job: &Job, age: Duration, every: Duration) -> QueryResult<()> {
    sql_query(
        "SELECT alter_job(job_id, schedule_interval => make_interval(secs => $4),
                          config => config || jsonb_build_object($2, $3))
         FROM timescaledb_information.jobs WHERE job_id = $1",
    )
    .bind::<Integer, _>(job.id)
    .bind::<Text, _>(job.kind.setting())
    .bind::<Text, _>(format!("{} seconds", age.as_secs()))
    .bind::<BigInt, _>(seconds(every))
    .execute(connection)
    .await?;
    Ok(())
}

async fn replace_refresh(
    connection: &mut AsyncPgConnection,
    job: &Job,
    age: Duration,
    every: Duration,
) -> QueryResult<()> {
    sql_query("SELECT remove_continuous_aggregate_policy($1::regclass)")
        .bind::<Text, _>(&job.table)
        .execute(connection)
        .await?;
    sql_query(
        "SELECT add_continuous_aggregate_policy($1::regclass, start_offset => make_interval(secs => $2),
                                                end_offset => $3::interval,
                                                schedule_interval => make_interval(secs => $4))",
    )
    .bind::<Text, _>(&job.table)
    .bind::<BigInt, _>(seconds(age))
    .bind::<Nullable<Text>, _>(job.config.get("end_offset").and_then(Value::as_str))
    .bind::<BigInt, _>(seconds(every))
    .execute(connection)
    .await?;
    Ok(())
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Settings of the sessions in which compression jobs run, where the version has them. A job that compresses new rows
/// of a chunk waits for the writers of the chunk once, before it begins. By default it takes stronger locks later, and
/// fails or makes a writer fail with a deadlock.
const JOB_SETTINGS: &str = "VALUES ('timescaledb.enable_exclusive_locking_recompression', 'on'),
                                   ('timescaledb.enable_in_memory_recompression', 'off'),
                                   ('timescaledb.compress_truncate_behaviour', 'truncate_or_delete')";

/// Makes compression jobs wait for writers of the same chunk. Settings that an operator has made stay. Returns the
/// number of changes.
pub async fn make_compression_wait(connection: &mut AsyncPgConnection, edition: Edition) -> QueryResult<usize> {
    if edition == Edition::Apache {
        return Ok(0);
    }
    // A REINDEX of a chunk after its compression blocks writers with a weaker lock than the one it takes next.
    let altered = sql_query(
        "SELECT alter_job(job_id, config => config || '{\"reindex\": false}') FROM timescaledb_information.jobs
         WHERE proc_name = 'policy_compression' AND NOT config ? 'reindex'",
    )
    .execute(connection)
    .await?;
    let settings: Vec<TextValue> = sql_query(format!(
        "SELECT format('ALTER ROLE %s IN DATABASE %I SET %s = %L', owner, current_database(), name, value) AS value
         FROM (SELECT DISTINCT owner FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression') owners
         CROSS JOIN ({JOB_SETTINGS}) wanted (name, value)
         WHERE EXISTS (SELECT FROM pg_settings WHERE pg_settings.name = wanted.name)
           AND (owner = quote_ident(current_user)::regrole
                OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))
           AND NOT EXISTS (
               SELECT FROM pg_db_role_setting, unnest(setconfig) setting
               WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
                 AND setrole = owner AND starts_with(setting, wanted.name || '='))"
    ))
    .get_results(connection)
    .await?;
    for setting in &settings {
        sql_query(&setting.value).execute(connection).await?;
    }
    Ok(altered + settings.len())
}

/// Adds a policy that drops chunks of `table` entirely older than `age`, and runs at intervals of `every`.
pub async fn add_retention(
    connection: &mut AsyncPgConnection,
    table: &str,
    age: Duration,
    every: Duration,
) -> QueryResult<()> {
    sql_query(
        "SELECT add_retention_policy($1::regclass, drop_after => make_interval(secs => $2),
                                     schedule_interval => make_interval(secs => $3))",
    )
    .bind::<Text, _>(table)
    .bind::<BigInt, _>(seconds(age))
    .bind::<BigInt, _>(seconds(every))
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
        .bind::<BigInt, _>(seconds(age))
        .execute(connection)
        .await
}
