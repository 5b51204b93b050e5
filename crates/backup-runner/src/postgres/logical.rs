//! Dumps the database and counts the rows in the dump.

use anyhow::{Context, bail};
use diesel_async::AsyncPgConnection;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::backup as queries;

use super::{open, tool, totals};
use crate::config::Config;
use crate::content::{Content, PostgresContent, TableTotal};
use crate::destination::Destination;
use crate::draft::Draft;
use crate::manifest::{Kind, Manifest};
use crate::tool;

/// File name of the dump.
pub(crate) const FILE: &str = "database.dump";

/// Number of dumps that are tried on a server without snapshots, until no row is written during one.
const ATTEMPTS: usize = 5;

/// Backs up the database of `postgres.url`.
pub(crate) async fn backup(config: &Config, destination: &Destination) -> anyhow::Result<Manifest> {
    let programs = config.backup.pg_bin.as_deref();
    let (mut connection, server) = open(&config.postgres).await?;
    let roles = queries::named_roles(&mut connection).await.explained("listing roles")?;
    let draft = Draft::begin(destination, Kind::Postgres)?;
    let tables = if server.single_session {
        dump_between_counts(config, &mut connection, &draft).await?
    } else {
        dump_of_snapshot(config, &mut connection, &draft).await?
    };
    let content = PostgresContent {
        server_version: server.postgres_version,
        timescale_version: server.timescale_version,
        edition: server.edition.to_string(),
        tables,
        roles,
    };
    let tool = tool::version(programs, "pg_dump").await?;
    draft.seal(Content::Postgres(content), tool).await
}

/// Dumps the snapshot in which the rows are counted.
async fn dump_of_snapshot(
    config: &Config,
    connection: &mut AsyncPgConnection,
    draft: &Draft,
) -> anyhow::Result<Vec<TableTotal>> {
    let snapshot = queries::begin_snapshot(connection)
        .await
        .explained("taking a snapshot")?;
    let tables = totals(connection).await?;
    dump(config, draft, Some(&snapshot)).await?;
    queries::end_snapshot(connection)
        .await
        .explained("ending the snapshot")?;
    Ok(tables)
}

/// Counts the rows before and after the dump until both counts agree. The embedded server runs one session at a time,
/// so a snapshot held here would block pg_dump forever.
async fn dump_between_counts(
    config: &Config,
    connection: &mut AsyncPgConnection,
    draft: &Draft,
) -> anyhow::Result<Vec<TableTotal>> {
    let mut before = totals(connection).await?;
    for _ in 0..ATTEMPTS {
        dump(config, draft, None).await?;
        let after = totals(connection).await?;
        if before == after {
            return Ok(after);
        }
        before = after;
    }
    bail!(
        "rows were written during each of {ATTEMPTS} dumps, and the embedded server has no snapshots; stop \
         warm-syncer, then repeat the backup"
    );
}

async fn dump(config: &Config, draft: &Draft, snapshot: Option<&str>) -> anyhow::Result<()> {
    let mut tool = tool(&config.postgres, config.backup.pg_bin.as_deref(), "pg_dump")?
        .args(["--format=custom", "--no-password", "--file"])
        .arg(draft.path(FILE));
    if let Some(snapshot) = snapshot {
        tool = tool.arg(format!("--snapshot={snapshot}"));
    }
    tool.run()
        .await
        .with_context(|| format!("dumping the database at {}", config.postgres.url))?;
    Ok(())
}
