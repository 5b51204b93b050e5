//! What the server can do: TimescaleDB's edition and version, and whether jobs run there by themselves.

use std::fmt;

use diesel::sql_types::{Bool, Nullable, Text};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

/// TimescaleDB's edition, which decides how rollups, compression and retention are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    /// `timescaledb.license = timescale`: continuous aggregates, compression, policies.
    Community,
    /// `timescaledb.license = apache`: hypertables, `time_bucket`, `first`, `last` and `drop_chunks` only.
    Apache,
}

impl fmt::Display for Edition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Community => "community",
            Self::Apache => "apache",
        })
    }
}

/// The server that a connection leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Version of PostgreSQL: `17.5`.
    pub postgres_version: String,
    /// Version of TimescaleDB's extension in this database: `2.23.0`.
    pub timescale_version: String,
    /// TimescaleDB's edition.
    pub edition: Edition,
    /// Whether TimescaleDB runs its jobs (policies) by itself. Where it does not, aggregator-admin does.
    pub has_scheduler: bool,
    /// Whether all clients share one session, as with the embedded server: a transaction keeps the others waiting.
    pub single_session: bool,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Text)]
    postgres_version: String,
    #[diesel(sql_type = Nullable<Text>)]
    timescale_version: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    license: Option<String>,
    #[diesel(sql_type = Bool)]
    has_scheduler: bool,
    #[diesel(sql_type = Bool)]
    single_session: bool,
}

// A role without pg_read_all_stats does not see the scheduler's process: there the scheduler is taken for granted,
// as every server has one but the embedded.
const DETECT: &str = "
SELECT current_setting('server_version') AS postgres_version,
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescale_version,
       current_setting('timescaledb.license', true) AS license,
       current_setting('embedded.single_session', true) IS NOT DISTINCT FROM 'on' AS single_session,
       current_setting('embedded.single_session', true) IS DISTINCT FROM 'on' AND (
           NOT pg_has_role('pg_read_all_stats', 'USAGE') OR EXISTS (
               SELECT FROM pg_stat_activity
               WHERE datname = current_database() AND backend_type = 'TimescaleDB Background Worker Scheduler')
       ) AS has_scheduler";

impl Server {
    /// Asks the server; `None` where the database has no TimescaleDB yet.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn detect(connection: &mut AsyncPgConnection) -> QueryResult<Option<Self>> {
        let row: Row = sql_query(DETECT).get_result(connection).await?;
        let edition = match row.license.as_deref() {
            Some("timescale") => Edition::Community,
            _ => Edition::Apache,
        };
        Ok(row.timescale_version.map(|timescale_version| Self {
            postgres_version: row.postgres_version,
            timescale_version,
            edition,
            has_scheduler: row.has_scheduler,
            single_session: row.single_session,
        }))
    }
}
