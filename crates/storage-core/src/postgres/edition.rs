//! Capabilities of the server: edition and version of TimescaleDB, and its scheduler of jobs.

use std::fmt;

use diesel::sql_types::{Bool, Nullable, Text};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

/// Edition of TimescaleDB; rollups, compression and retention depend on it.
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

/// Versions and capabilities of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Version of PostgreSQL: `17.5`.
    pub postgres_version: String,
    /// Version of TimescaleDB's extension in this database: `2.23.0`.
    pub timescale_version: String,
    /// Edition of TimescaleDB.
    pub edition: Edition,
    /// `true` if TimescaleDB runs its jobs (policies). If not, aggregator-admin runs them.
    pub has_scheduler: bool,
    /// `true` if all clients share one session, as with the embedded server: a transaction blocks all other clients.
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

// A role without pg_read_all_stats does not see the process of the scheduler. It is assumed to run if the server may
// start one.
const DETECT: &str = "
SELECT current_setting('server_version') AS postgres_version,
       (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS timescale_version,
       current_setting('timescaledb.license', true) AS license,
       current_setting('embedded.single_session', true) IS NOT DISTINCT FROM 'on' AS single_session,
       current_setting('embedded.single_session', true) IS DISTINCT FROM 'on'
       AND current_setting('timescaledb.max_background_workers', true) IS DISTINCT FROM '0' AND (
           NOT pg_has_role('pg_read_all_stats', 'USAGE') OR EXISTS (
               SELECT FROM pg_stat_activity
               WHERE datname = current_database() AND backend_type = 'TimescaleDB Background Worker Scheduler')
       ) AS has_scheduler";

impl Server {
    /// Detects the server; `None` if the database has no TimescaleDB.
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
