//! Plans of statements by EXPLAIN (ANALYZE, BUFFERS), and the statements that functions send.

pub mod plan;
mod statement;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use diesel::connection::InstrumentationEvent;
use diesel::deserialize::{self, QueryableByName};
use diesel::pg::Pg;
use diesel::row::NamedRow;
use diesel::sql_types::{BigInt, Double, Json, Text};
use diesel::{OptionalExtension, QueryResult, sql_query};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use self::plan::Plan;
use super::columns::{BoolValue, TextValue};

/// Collects the statements that a connection sends.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Mutex<Vec<String>>>);

impl Recorder {
    /// Records the statements of `connection` from now on.
    pub fn record(&self, connection: &mut AsyncPgConnection) {
        let sent = Arc::clone(&self.0);
        connection.set_instrumentation(move |event: InstrumentationEvent<'_>| {
            if let InstrumentationEvent::StartQuery { query, .. } = event {
                let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                sent.push(query.to_string());
            }
        });
    }

    /// Returns the statements sent since the last call, with literals for parameters. Of statements that differ in
    /// their parameters only, it returns the first.
    pub fn take(&self) -> Vec<String> {
        let sent = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut known = HashSet::new();
        sent.iter()
            .filter(|sent| known.insert(statement::text(sent)))
            .filter_map(|sent| statement::with_literals(sent))
            .collect()
    }
}

struct PlanRow(serde_json::Value);

impl QueryableByName<Pg> for PlanRow {
    fn build<'a>(row: &impl NamedRow<'a, Pg>) -> deserialize::Result<Self> {
        NamedRow::get::<Json, serde_json::Value>(row, "QUERY PLAN").map(Self)
    }
}

/// Tables by the names of their chunks.
pub type ChunkTables = HashMap<String, String>;

#[derive(diesel::QueryableByName)]
struct ChunkRow {
    #[diesel(sql_type = Text)]
    chunk: String,
    #[diesel(sql_type = Text)]
    table_name: String,
}

/// Reads the hypertable or continuous aggregate of every chunk.
pub async fn chunk_tables(connection: &mut AsyncPgConnection) -> QueryResult<ChunkTables> {
    let rows: Vec<ChunkRow> = sql_query(
        "SELECT chunk_name::text AS chunk, coalesce(view_name, hypertable_name)::text AS table_name
         FROM timescaledb_information.chunks
         LEFT JOIN (SELECT view_name, materialization_hypertable_name AS hypertable_name
                    FROM timescaledb_information.continuous_aggregates) rollups USING (hypertable_name)",
    )
    .get_results(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.chunk, row.table_name)).collect())
}

/// Runs `statement` in a read-only transaction and returns its plan.
pub async fn explain(connection: &mut AsyncPgConnection, statement: &str, chunks: &ChunkTables) -> QueryResult<Plan> {
    let explained: PlanRow = connection
        .transaction(async |connection| {
            connection.batch_execute("SET TRANSACTION READ ONLY").await?;
            sql_query(format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"))
                .get_result(connection)
                .await
        })
        .await?;
    Plan::parse(&explained.0, chunks).map_err(|error| diesel::result::Error::DeserializationError(error.into()))
}

/// A statement of `pg_stat_statements`.
#[derive(Clone, Debug, PartialEq, diesel::QueryableByName, serde::Serialize)]
pub struct SlowStatement {
    /// Number of executions.
    #[diesel(sql_type = BigInt)]
    pub calls: i64,
    /// Duration of all executions in ms.
    #[diesel(sql_type = Double)]
    pub total_ms: f64,
    /// Mean duration in ms.
    #[diesel(sql_type = Double)]
    pub mean_ms: f64,
    /// Number of rows returned or changed.
    #[diesel(sql_type = BigInt)]
    pub rows: i64,
    /// Text with `$1` for constants.
    #[diesel(sql_type = Text)]
    pub query: String,
}

/// Source of the slow statements.
#[derive(Clone, Debug, PartialEq)]
pub enum SlowStatements {
    /// The statements that took the most time in this database, slowest first.
    Found(Vec<SlowStatement>),
    /// The extension is missing. The text says how to get it.
    Missing(&'static str),
}

/// Reads the `limit` statements that took the most time in this database.
pub async fn slow_statements(connection: &mut AsyncPgConnection, limit: i64) -> QueryResult<SlowStatements> {
    let schema: Option<TextValue> = sql_query(
        "SELECT quote_ident(nspname) AS value FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
         WHERE extname = 'pg_stat_statements'",
    )
    .get_result(connection)
    .await
    .optional()?;
    // A session without the right to read the setting sees NULL.
    let is_loaded: BoolValue =
        sql_query("SELECT coalesce(current_setting('pg_stat_statements.max', true), '') <> '' AS value")
            .get_result(connection)
            .await?;
    let Some(schema) = schema.filter(|_| is_loaded.value) else {
        return Ok(SlowStatements::Missing(match is_loaded.value {
            true => "run `CREATE EXTENSION pg_stat_statements` in this database as a superuser",
            false => {
                "add `pg_stat_statements` to shared_preload_libraries in postgresql.conf, restart the server, and run \
                 `CREATE EXTENSION pg_stat_statements` in this database as a superuser"
            }
        }));
    };
    let found = sql_query(format!(
        "SELECT calls, total_exec_time AS total_ms, mean_exec_time AS mean_ms, rows, query
         FROM {}.pg_stat_statements
         WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND query IS NOT NULL
         ORDER BY total_exec_time DESC LIMIT $1",
        schema.value
    ))
    .bind::<BigInt, _>(limit)
    .get_results(connection)
    .await?;
    Ok(SlowStatements::Found(found))
}
