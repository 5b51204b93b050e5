//! TimescaleDB's jobs: which there are, what they are set to, and running one where the server has no scheduler.

use std::time::Duration;

use diesel::sql_types::{BigInt, Integer, Jsonb, Text};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde_json::Value;

use super::maintenance;
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
    /// Its settings, as TimescaleDB keeps them: `start_offset`, `end_offset`, `compress_after`, `drop_after`.
    pub config: Value,
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
                extract(epoch FROM schedule_interval)::bigint AS every_seconds, coalesce(config, '{}'::jsonb) AS config
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
            config: self.config,
        })
    }
}

/// Runs a job now, in this session. Not for use inside a transaction. TimescaleDB does not count such a run in its own
/// statistics, so who runs jobs remembers when.
///
/// # Errors
/// The database's.
pub async fn run_job(connection: &mut AsyncPgConnection, id: i32) -> QueryResult<()> {
    maintenance::call(connection, &format!("CALL run_job({id})")).await
}
