//! The embedded migrations of the schema: those of every database, and those of a TimescaleDB edition.
//!
//! All pending migrations run in one transaction, so that a failure leaves the schema as it was. A second `migrate` at
//! the same time waits, and then has nothing to do.

use std::collections::BTreeMap;

use diesel::connection::SimpleConnection;
use diesel::migration::{Migration, MigrationSource, MigrationVersion, Result as MigrationResult};
use diesel::pg::Pg;
use diesel::sql_types::{Bool, Oid, Text};
use diesel::{Connection, QueryResult, QueryableByName, sql_query};
use diesel_async::async_connection_wrapper::AsyncConnectionWrapper;
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use super::columns::{BoolValue, TextValue};
use super::drift;
use super::edition::{Edition, Server};
use super::edition_move;
use super::error::{Fault, describe, sqlstate};
use super::sqlstate::of_message;

const COMMON: EmbeddedMigrations = embed_migrations!("../../migrations/common");
const COMMUNITY: EmbeddedMigrations = embed_migrations!("../../migrations/community");
const APACHE: EmbeddedMigrations = embed_migrations!("../../migrations/apache");

/// Migration of the Community edition that creates the continuous aggregates.
pub const AGGREGATES: &str = "2026-11-23-000700_rollups";

/// Advisory lock of the transaction that changes the schema, an arbitrary number that no other lock uses.
const MIGRATION_LOCK: i64 = 0x6d69_6772;

/// Error of the schema or a migration.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The database has no TimescaleDB, and it can't be added.
    #[error("{reason}")]
    NoTimescale {
        /// Cause and remedy.
        reason: String,
    },
    /// The schema lacks migrations of this version.
    #[error("the schema is {behind} migrations behind; run `aggregator-admin migrate`")]
    Behind {
        /// Number of pending migrations.
        behind: usize,
    },
    /// The schema has migrations that this version does not know.
    #[error("the schema has migration {version}, which this version does not know{hint}")]
    Unknown {
        /// Version of the first such migration.
        version: String,
        /// Likely cause and remedy.
        hint: String,
    },
    /// A migration failed; the schema is unchanged.
    #[error("{migration} failed, and nothing was changed: {reason}")]
    Failed {
        /// Name of the migration.
        migration: String,
        /// Error of the database.
        reason: String,
        /// `true` if the migration may succeed when it is repeated, such as after a deadlock with a job.
        is_transient: bool,
    },
    /// The asked migration does not exist.
    #[error("there is no migration {name} for the {edition:?} edition; the last one is {last}")]
    NotFound {
        /// Name that was given.
        name: String,
        /// Edition of the server.
        edition: Edition,
        /// Name of the last migration.
        last: String,
    },
    /// Migrations would have to be reverted, which was not confirmed.
    #[error("this reverts {} and drops what they added; add --yes to confirm", names.join(", "))]
    Unconfirmed {
        /// Names of the migrations, the last one first.
        names: Vec<String>,
    },
    /// Error of the database.
    #[error("{}", describe(.0))]
    Database(#[from] diesel::result::Error),
}

/// Migrations by version.
type Migrations = BTreeMap<String, Box<dyn Migration<Pg>>>;

fn of_edition(edition: Edition) -> MigrationResult<Migrations> {
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
    // diesel_migrations wraps the error of the database in one of its own.
    let fault = of_message(&error.to_string()).map(Fault::of_sqlstate);
    MigrationError::Failed {
        migration: migration.into(),
        reason,
        is_transient: fault == Some(Fault::Transient),
    }
}

async fn applied(connection: &mut AsyncPgConnection) -> QueryResult<Vec<String>> {
    let exists: BoolValue = sql_query("SELECT to_regclass('__diesel_schema_migrations') IS NOT NULL AS value")
        .get_result(connection)
        .await?;
    if !exists.value {
        return Ok(Vec::new());
    }
    let rows: Vec<TextValue> = sql_query("SELECT version AS value FROM __diesel_schema_migrations ORDER BY version")
        .get_results(connection)
        .await?;
    Ok(rows.into_iter().map(|row| row.value).collect())
}

/// Migrations of a database, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Versions that were run.
    pub applied: Vec<String>,
    /// Versions that were not run.
    pub pending: Vec<String>,
    /// Versions that were run but that this version of the program does not have for this edition.
    pub unknown: Vec<String>,
}

/// Compares the schema with the migrations of `edition`.
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

/// Fails unless the schema is that of this version, and returns the server. Every worker calls it before it starts.
pub async fn ensure_current(connection: &mut AsyncPgConnection) -> Result<Server, MigrationError> {
    let Some(server) = Server::detect(connection).await? else {
        return Err(MigrationError::Behind {
            behind: known(Edition::Community)?.len(),
        });
    };
    let status = status(connection, server.edition).await?;
    refuse_unknown(status.unknown.as_slice().first(), server.edition)?;
    match status.pending.len() {
        0 => Ok(server),
        behind => Err(MigrationError::Behind { behind }),
    }
}

/// Returns `true` if the `unknown` migrations are those of the Apache edition, and the server has the other edition.
fn moves_to_community(unknown: &[String], edition: Edition) -> Result<bool, MigrationError> {
    let of_apache = known(Edition::Apache)?;
    let is_move = edition == Edition::Community && unknown.iter().all(|version| of_apache.contains(version));
    Ok(is_move && !unknown.is_empty())
}

fn refuse_unknown(unknown: Option<&String>, edition: Edition) -> Result<(), MigrationError> {
    let Some(version) = unknown else { return Ok(()) };
    let hint = match edition {
        Edition::Community if known(Edition::Apache)?.contains(version) => {
            ": it belongs to TimescaleDB's Apache edition, and this server has the Community edition; run \
             `aggregator-admin migrate`, which moves the database"
        }
        Edition::Apache if known(Edition::Community)?.contains(version) => {
            ": it belongs to TimescaleDB's Community edition, and this server has the Apache edition; set \
             `timescaledb.license = timescale` in postgresql.conf, and restart the server"
        }
        _ => "; use a newer version of the program",
    };
    Err(MigrationError::Unknown {
        version: version.clone(),
        hint: hint.to_owned(),
    })
}

/// Goal of migrations.
#[derive(Clone, Debug, Default)]
pub struct Goal {
    /// Version or name of the last migration that the schema shall have; `None` for all.
    pub to: Option<String>,
    /// Allows to revert migrations after [`Goal::to`], which drops what they added.
    pub may_revert: bool,
    /// Undoes everything at the end. Locks are held until then.
    pub dry_run: bool,
}

/// Result of migrations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Migrated {
    /// Names of the migrations that were reverted, the last one first.
    pub reverted: Vec<String>,
    /// Names of the migrations that were run, the first one first.
    pub run: Vec<String>,
    /// Tables and views, of those that existed before, that others could neither read nor write meanwhile.
    pub locked: Vec<String>,
    /// Those that others could not write meanwhile.
    pub locked_for_writes: Vec<String>,
}

/// Runs the pending migrations, all or none, and returns their names. On a server of the Community edition, a database
/// of the Apache edition becomes one of the Community edition; [`AGGREGATES`] have to be refreshed then. The connection
/// is consumed because its session may have loaded the extension in an older state.
pub async fn run(connection: AsyncPgConnection) -> Result<Vec<String>, MigrationError> {
    Ok(reach(connection, Goal::default()).await?.run)
}

/// Runs or reverts the migrations that lie between the schema and `goal`, all or none; see [`run`].
pub async fn reach(mut connection: AsyncPgConnection, goal: Goal) -> Result<Migrated, MigrationError> {
    let server = match goal.dry_run {
        true => Server::detect(&mut connection)
            .await?
            .ok_or_else(|| MigrationError::NoTimescale {
                reason: "the database has no TimescaleDB, which `aggregator-admin migrate` adds".to_owned(),
            })?,
        false => prepare(&mut connection).await?,
    };
    let keeps = !goal.dry_run;
    in_one_transaction(connection, server.edition, keeps, move |harness, all, applied| {
        let last = goal.to.map(|to| find(&all, to, server.edition)).transpose()?;
        let is_wanted = |version: &String| last.as_ref().is_none_or(|last| version <= last);
        let unknown: Vec<String> = applied
            .iter()
            .filter(|version| !all.contains_key(*version))
            .cloned()
            .collect();
        let moves = last.is_none() && moves_to_community(&unknown, server.edition)?;
        let present: Vec<Relation> = diesel::RunQueryDsl::load(sql_query(PRESENT), harness)?;
        if moves {
            SimpleConnection::batch_execute(harness, &edition_move::before_migrations(&unknown))?;
        } else {
            refuse_unknown(unknown.as_slice().first(), server.edition)?;
        }
        let (applied, pending): (Migrations, Migrations) =
            all.into_iter().partition(|(version, _)| applied.contains(version));
        let surplus: Vec<_> = applied
            .into_iter()
            .rev()
            .filter(|(version, _)| !is_wanted(version))
            .collect();
        if !surplus.is_empty() && !goal.may_revert {
            let names = surplus
                .iter()
                .map(|(_, migration)| migration.name().to_string())
                .collect();
            return Err(MigrationError::Unconfirmed { names });
        }
        let surplus = surplus.into_iter().map(|(_, migration)| migration);
        let reverted = for_each(surplus, |migration| harness.revert_migration(migration))?;
        let wanted = pending
            .into_iter()
            .filter(|(version, _)| is_wanted(version))
            .map(|(_, migration)| migration);
        let run = for_each(wanted, |migration| harness.run_migration(migration))?;
        if moves {
            SimpleConnection::batch_execute(harness, &edition_move::after_migrations())?;
        }
        if !(run.is_empty() && reverted.is_empty()) {
            SimpleConnection::batch_execute(harness, &drift::record_statement())?;
        }
        let locks: Vec<Lock> = diesel::RunQueryDsl::load(sql_query(LOCKS), harness)?;
        let locked = |blocks_reads| {
            let mut names: Vec<String> = present
                .iter()
                .filter(|table| {
                    locks
                        .iter()
                        .any(|lock| lock.oid == table.oid && lock.blocks_reads == blocks_reads)
                })
                .map(|table| table.name.clone())
                .collect();
            names.sort();
            names
        };
        Ok(Migrated {
            reverted,
            run,
            locked: locked(true),
            locked_for_writes: locked(false),
        })
    })
    .await
}

/// Tables and views of the schema.
const PRESENT: &str = "SELECT oid, relname::text AS name FROM pg_class
                       WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p', 'v')";

#[derive(Debug, QueryableByName)]
struct Relation {
    #[diesel(sql_type = Oid)]
    oid: u32,
    #[diesel(sql_type = Text)]
    name: String,
}

/// Tables that this transaction keeps others from writing or reading, also those that it has dropped. The embedded
/// server's process has no number.
const LOCKS: &str = "
    SELECT relation AS oid, bool_or(mode = 'AccessExclusiveLock') AS blocks_reads FROM pg_locks
    WHERE pid IS NOT DISTINCT FROM nullif(pg_backend_pid(), 0) AND granted AND locktype = 'relation'
      AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
    GROUP BY relation";

#[derive(Debug, QueryableByName)]
struct Lock {
    #[diesel(sql_type = Oid)]
    oid: u32,
    /// `false` if others may read the table.
    #[diesel(sql_type = Bool)]
    blocks_reads: bool,
}

/// Returns the version of the migration that `to` names.
fn find(all: &Migrations, to: String, edition: Edition) -> Result<String, MigrationError> {
    let version = to.split('_').next().unwrap_or_default().replace('-', "");
    match (all.contains_key(&version), all.values().next_back()) {
        (false, Some(last)) => Err(MigrationError::NotFound {
            name: to,
            edition,
            last: last.name().to_string(),
        }),
        _ => Ok(version),
    }
}

/// Reverts all migrations, which drops all data, and returns their names.
pub async fn revert_all(mut connection: AsyncPgConnection) -> Result<Vec<String>, MigrationError> {
    let Some(server) = Server::detect(&mut connection).await? else {
        return Ok(Vec::new());
    };
    in_one_transaction(connection, server.edition, true, |harness, mut all, applied| {
        all.retain(|version, _| applied.contains(version));
        for_each(all.into_values().rev(), |migration| harness.revert_migration(migration))
    })
    .await
}

fn for_each<'m>(
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

/// Creates the extension unless the database has it: the edition, which decides which migrations run, is known only
/// from the extension.
async fn prepare(connection: &mut AsyncPgConnection) -> Result<Server, MigrationError> {
    if let Some(server) = Server::detect(connection).await? {
        return Ok(server);
    }
    let create = format!(
        "BEGIN; SELECT pg_advisory_xact_lock({MIGRATION_LOCK}); CREATE EXTENSION IF NOT EXISTS timescaledb; COMMIT"
    );
    if let Err(error) = connection.batch_execute(&create).await {
        // The first error is the one to report, whatever the ROLLBACK returns.
        let _ = connection.batch_execute("ROLLBACK").await;
        return Err(no_timescale(error));
    }
    let no_extension = || MigrationError::NoTimescale {
        reason: "the extension timescaledb is not loaded after CREATE EXTENSION".to_owned(),
    };
    Server::detect(connection).await?.ok_or_else(no_extension)
}

fn no_timescale(error: diesel::result::Error) -> MigrationError {
    let advice = match sqlstate(&error) {
        // The server has no control file of the extension.
        Some("58P01" | "0A000" | "22023") => "install TimescaleDB on the server",
        Some("42501") => "let the database's owner run `CREATE EXTENSION timescaledb` there once, then migrate again",
        // The extension reports in this word that its library was not loaded at the start of the server.
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

/// Runs `work` with the migrations of `edition` and the applied versions, in a transaction that excludes other
/// migrations, and undoes it unless `keeps`. diesel's migrations block, so they run in a thread of their own.
async fn in_one_transaction<R: Send + 'static>(
    connection: AsyncPgConnection,
    edition: Edition,
    keeps: bool,
    work: impl FnOnce(&mut Harness, Migrations, Vec<String>) -> Result<R, MigrationError> + Send + 'static,
) -> Result<R, MigrationError> {
    let running = tokio::task::spawn_blocking(move || {
        let mut harness = Harness::from(connection);
        let mut undone = None;
        let kept = harness.transaction(|harness| {
            // Who waits for a lock keeps those behind it waiting, too, which a dry run is not worth.
            let lock_timeout = if keeps { "" } else { "SET LOCAL lock_timeout = '2s';" };
            SimpleConnection::batch_execute(
                harness,
                &format!(
                    "SET LOCAL statement_timeout = 0; {lock_timeout} SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"
                ),
            )?;
            let all = of_edition(edition).map_err(|error| failed("reading the migrations", error))?;
            let applied = harness
                .applied_migrations()
                .map_err(|error| failed("reading the applied migrations", error))?;
            let done = work(harness, all, applied.iter().map(ToString::to_string).collect())?;
            if keeps {
                return Ok(done);
            }
            undone = Some(done);
            Err(diesel::result::Error::RollbackTransaction.into())
        });
        undone.map_or(kept, Ok)
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

    #[test]
    fn a_migration_that_conflicts_with_a_job_may_be_repeated() {
        let is_transient = |message: &str| match failed("migration a", message.into()) {
            MigrationError::Failed { is_transient, .. } => is_transient,
            _ => false,
        };
        assert!(is_transient("Failed to run a with: deadlock detected (SQLSTATE 40P01)"));
        assert!(is_transient(
            "Failed to run a with: tuple concurrently deleted (SQLSTATE XX000)"
        ));
        assert!(!is_transient("Failed to run a with: syntax error (SQLSTATE 42601)"));
        assert!(!is_transient("the file is missing"));
    }
}
