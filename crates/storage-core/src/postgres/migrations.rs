//! The schema's migrations, embedded: what every database gets, and what its TimescaleDB edition gets.
//!
//! All pending ones run in one transaction, so a failure leaves the schema as it was, and a second `migrate` at the
//! same time waits and then finds nothing to do.

use std::collections::BTreeMap;

use diesel::migration::{Migration, MigrationSource, MigrationVersion, Result as MigrationResult};
use diesel::pg::Pg;
use diesel::sql_types::{Bool, Text};
use diesel::{Connection, QueryResult, QueryableByName, sql_query};
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::edition::{Edition, Server};
use super::error::{Fault, describe, sqlstate};

const COMMON: EmbeddedMigrations = embed_migrations!("../../migrations/common");
const COMMUNITY: EmbeddedMigrations = embed_migrations!("../../migrations/community");
const APACHE: EmbeddedMigrations = embed_migrations!("../../migrations/apache");

/// Held by the one transaction that changes the schema. The number means nothing; it must only be nobody else's.
const MIGRATION_LOCK: i64 = 0x6d69_6772;

/// Why the schema is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The database has no TimescaleDB, and it can't be added.
    #[error("{reason}")]
    NoTimescale {
        /// Why, and what to do.
        reason: String,
    },
    /// The schema lacks migrations of this version.
    #[error("the schema is {behind} migrations behind; run `aggregator-admin migrate`")]
    Behind {
        /// How many.
        behind: usize,
    },
    /// The schema has migrations that this version does not know.
    #[error("the schema has migration {version}, which this version does not know{hint}")]
    Unknown {
        /// The first such migration.
        version: String,
        /// What may be the reason.
        hint: &'static str,
    },
    /// A migration failed; nothing was changed.
    #[error("{migration} failed, and nothing was changed: {reason}")]
    Failed {
        /// Its name.
        migration: String,
        /// The database's words.
        reason: String,
    },
    /// The database's.
    #[error("{}", describe(.0))]
    Database(#[from] diesel::result::Error),
}

impl MigrationError {
    /// Whether it passes by itself.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Database(error) => Fault::of(error),
            _ => Fault::Permanent,
        }
    }
}

/// The migrations of an edition, by version.
fn of_edition(edition: Edition) -> MigrationResult<BTreeMap<String, Box<dyn Migration<Pg>>>> {
    let own = match edition {
        Edition::Community => COMMUNITY,
        Edition::Apache => APACHE,
    };
    let mut all: Vec<Box<dyn Migration<Pg>>> = MigrationSource::<Pg>::migrations(&COMMON)?;
    all.extend(MigrationSource::<Pg>::migrations(&own)?);
    Ok(all
        .into_iter()
        .map(|migration| (migration.name().version().to_string(), migration))
        .collect())
}

fn known(edition: Edition) -> Result<Vec<String>, MigrationError> {
    of_edition(edition)
        .map(|all| all.into_keys().collect())
        .map_err(|error| failed("reading the migrations", error))
}

fn failed(migration: impl Into<String>, error: Box<dyn std::error::Error + Send + Sync>) -> MigrationError {
    let reason = match error.downcast_ref::<diesel::result::Error>() {
        Some(error) => describe(error),
        None => error.to_string(),
    };
    MigrationError::Failed {
        migration: migration.into(),
        reason,
    }
}

#[derive(QueryableByName)]
struct Exists {
    #[diesel(sql_type = Bool)]
    yes: bool,
}

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = Text)]
    version: String,
}

async fn applied(connection: &mut AsyncPgConnection) -> QueryResult<Vec<String>> {
    let table: Exists = sql_query("SELECT to_regclass('__diesel_schema_migrations') IS NOT NULL AS yes")
        .get_result(connection)
        .await?;
    if !table.yes {
        return Ok(Vec::new());
    }
    let rows: Vec<Version> = sql_query("SELECT version FROM __diesel_schema_migrations ORDER BY version")
        .get_results(connection)
        .await?;
    Ok(rows.into_iter().map(|row| row.version).collect())
}

/// The state of a database's schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Versions that were run, oldest first.
    pub applied: Vec<String>,
    /// Versions that were not, oldest first.
    pub pending: Vec<String>,
    /// Versions that were run, but not by this version of the program, or for another edition.
    pub unknown: Vec<String>,
}

/// Compares the schema with the migrations of `edition`.
///
/// # Errors
/// The database's.
pub async fn status(connection: &mut AsyncPgConnection, edition: Edition) -> Result<Status, MigrationError> {
    let known = known(edition)?;
    let applied = applied(connection).await?;
    let pending = known
        .iter()
        .filter(|version| !applied.contains(version))
        .cloned()
        .collect();
    let unknown = applied
        .iter()
        .filter(|version| !known.contains(version))
        .cloned()
        .collect();
    Ok(Status {
        applied,
        pending,
        unknown,
    })
}

/// What a worker asks before it starts: that the schema is the one of this version. Returns the server.
///
/// # Errors
/// [`MigrationError::Behind`] and [`MigrationError::Unknown`] where it is not, [`MigrationError::NoTimescale`] where
/// there can't be one, or the database's.
pub async fn ensure_current(connection: &mut AsyncPgConnection) -> Result<Server, MigrationError> {
    let Some(server) = Server::detect(connection).await? else {
        return Err(MigrationError::Behind {
            behind: known(Edition::Community)?.len(),
        });
    };
    let status = status(connection, server.edition).await?;
    refuse_unknown(&status, server.edition)?;
    match status.pending.len() {
        0 => Ok(server),
        behind => Err(MigrationError::Behind { behind }),
    }
}

fn refuse_unknown(status: &Status, edition: Edition) -> Result<(), MigrationError> {
    let Some(version) = status.unknown.as_slice().first() else {
        return Ok(());
    };
    let other = match edition {
        Edition::Community => Edition::Apache,
        Edition::Apache => Edition::Community,
    };
    let hint = match (known(other)?.contains(version), other) {
        (true, Edition::Community) => {
            ": it was made for TimescaleDB's Community edition, and this server has the Apache edition; \
             move the data with `backup-runner` into a new database"
        }
        (true, Edition::Apache) => {
            ": it was made for TimescaleDB's Apache edition, and this server has the Community edition; \
             move the data with `backup-runner` into a new database"
        }
        (false, _) => "; use a newer version of the program",
    };
    Err(MigrationError::Unknown {
        version: version.clone(),
        hint,
    })
}

/// Runs the pending migrations, all or none, and returns their names. Takes a connection of its own, and gives none
/// back: the extension may have come into the database under this session.
///
/// # Errors
/// When a migration fails, the server has no TimescaleDB, the role lacks rights, or the database's.
pub async fn run(mut connection: AsyncPgConnection) -> Result<Vec<String>, MigrationError> {
    let server = prepare(&mut connection).await?;
    in_one_transaction(connection, move |harness| {
        let mut all = of_edition(server.edition).map_err(|error| failed("reading the migrations", error))?;
        let applied = harness
            .applied_migrations()
            .map_err(|error| failed("reading what was run", error))?;
        let applied: Vec<String> = applied.iter().map(ToString::to_string).collect();
        let unknown = applied
            .iter()
            .filter(|version| !all.contains_key(*version))
            .cloned()
            .collect();
        refuse_unknown(
            &Status {
                applied: applied.clone(),
                pending: Vec::new(),
                unknown,
            },
            server.edition,
        )?;
        all.retain(|version, _| !applied.contains(version));
        step(all.into_values(), |migration| harness.run_migration(migration))
    })
    .await
}

/// Takes everything away that the migrations made, the data included, and returns their names.
///
/// # Errors
/// As [`run`].
pub async fn revert_all(mut connection: AsyncPgConnection) -> Result<Vec<String>, MigrationError> {
    let Some(server) = Server::detect(&mut connection).await? else {
        return Ok(Vec::new());
    };
    in_one_transaction(connection, move |harness| {
        let mut all = of_edition(server.edition).map_err(|error| failed("reading the migrations", error))?;
        let applied = harness
            .applied_migrations()
            .map_err(|error| failed("reading what was run", error))?;
        let applied: Vec<String> = applied.iter().map(ToString::to_string).collect();
        all.retain(|version, _| applied.contains(version));
        step(all.into_values().rev(), |migration| harness.revert_migration(migration))
    })
    .await
}

fn step<'m>(
    migrations: impl Iterator<Item = Box<dyn Migration<Pg> + 'm>>,
    mut each: impl FnMut(&dyn Migration<Pg>) -> MigrationResult<MigrationVersion<'static>>,
) -> Result<Vec<String>, MigrationError> {
    let mut done = Vec::new();
    for migration in migrations {
        let name = migration.name().to_string();
        each(migration.as_ref()).map_err(|error| failed(format!("migration {name}"), error))?;
        done.push(name);
    }
    Ok(done)
}

/// The server, with the extension in its database: the edition decides what runs, and only the extension knows it.
async fn prepare(connection: &mut AsyncPgConnection) -> Result<Server, MigrationError> {
    if let Some(server) = Server::detect(connection).await? {
        return Ok(server);
    }
    let create = format!(
        "BEGIN; SELECT pg_advisory_xact_lock({MIGRATION_LOCK}); CREATE EXTENSION IF NOT EXISTS timescaledb; COMMIT"
    );
    if let Err(error) = connection.batch_execute(&create).await {
        // Nothing else to do with a failed transaction; the first error is the one to report.
        let _ = connection.batch_execute("ROLLBACK").await;
        return Err(no_timescale(error));
    }
    let no_extension = || MigrationError::NoTimescale {
        reason: "the extension timescaledb did not load".to_owned(),
    };
    Server::detect(connection).await?.ok_or_else(no_extension)
}

fn no_timescale(error: diesel::result::Error) -> MigrationError {
    let advice = match sqlstate(&error) {
        // No such control file.
        Some("58P01" | "0A000" | "22023") => "install TimescaleDB on the server",
        Some("42501") => "let the database's owner run `CREATE EXTENSION timescaledb` there once, then migrate again",
        // The extension's own word for a library that was not loaded at the start.
        _ if error.to_string().contains("preload") => {
            "set shared_preload_libraries = 'timescaledb' in postgresql.conf, and restart the server"
        }
        _ => return error.into(),
    };
    MigrationError::NoTimescale {
        reason: format!("the database has no TimescaleDB: {error}; {advice}"),
    }
}

type Harness = AsyncConnectionWrapper<AsyncPgConnection>;

/// Runs `work` in a transaction that no other migration runs beside. diesel's migrations are blocking, so they get a
/// thread for that.
async fn in_one_transaction<R: Send + 'static>(
    connection: AsyncPgConnection,
    work: impl FnOnce(&mut Harness) -> Result<R, MigrationError> + Send + 'static,
) -> Result<R, MigrationError> {
    let running = tokio::task::spawn_blocking(move || {
        let mut harness = Harness::from(connection);
        harness.transaction(|harness| {
            diesel::connection::SimpleConnection::batch_execute(
                harness,
                &format!("SET LOCAL statement_timeout = 0; SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"),
            )?;
            work(harness)
        })
    });
    running
        .await
        .unwrap_or_else(|panicked| Err(failed("the migration's thread", panicked.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_migration_has_a_version_of_its_own() {
        let count = |source: &EmbeddedMigrations| MigrationSource::<Pg>::migrations(source).unwrap().len();
        for (edition, own) in [(Edition::Community, COMMUNITY), (Edition::Apache, APACHE)] {
            assert_eq!(
                of_edition(edition).unwrap().len(),
                count(&COMMON) + count(&own),
                "{edition}"
            );
        }
    }
}
