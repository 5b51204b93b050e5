//! Restores a dump into an empty database with TimescaleDB's pre- and post-restore steps, and compares the result.

use std::path::Path;

use anyhow::{Context, bail, ensure};
use storage_core::config::postgres::PostgresConfig;
use storage_core::postgres::connection::connect;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::backup as queries;

use super::{APPLICATION, open, tool, totals};
use crate::content::{PostgresContent, TableTotal};

/// Number of tables that an error names.
const NAMED: i64 = 3;

/// Restores a dump into the database of `config`.
pub(crate) async fn restore(
    config: &PostgresConfig,
    programs: Option<&Path>,
    dump: &Path,
    content: &PostgresContent,
) -> anyhow::Result<()> {
    refuse_unless_empty(config).await?;
    prepare_extension(config, content).await?;
    let missing_roles = missing_roles(config, content).await?;

    let (mut connection, _) = open(config).await?;
    queries::pre_restore(&mut connection)
        .await
        .explained("preparing TimescaleDB for the restore")?;
    drop(connection);
    let restored = fill(config, programs, dump, &missing_roles).await;
    let (mut connection, _) = open(config).await?;
    queries::post_restore(&mut connection)
        .await
        .explained("ending the restore in TimescaleDB")?;
    restored?;

    compare(&content.tables, &totals(&mut connection).await?)
}

async fn refuse_unless_empty(config: &PostgresConfig) -> anyhow::Result<()> {
    let mut connection = connect(config, APPLICATION).await?;
    let some = queries::user_relations(&mut connection, NAMED)
        .await
        .explained("checking that the target database is empty")?;
    ensure!(
        some.is_empty(),
        "the database at {} is not empty: it holds {}, …; create a new database and restore into that one",
        config.url,
        some.join(", ")
    );
    Ok(())
}

/// Requires TimescaleDB of the same edition and version, because the dump contains its catalog.
async fn prepare_extension(config: &PostgresConfig, content: &PostgresContent) -> anyhow::Result<()> {
    let wanted = &content.timescale_version;
    let mut connection = connect(config, APPLICATION).await?;
    let found = queries::extension_version(&mut connection)
        .await
        .explained("looking for TimescaleDB")?;
    if let Some(found) = found {
        ensure!(
            found == *wanted,
            "the backup was made with TimescaleDB {wanted}, the target has {found}; restore into a database with \
             {wanted}, then update the extension there"
        );
    } else {
        let available = queries::available_extension_versions(&mut connection)
            .await
            .explained("looking for TimescaleDB")?;
        ensure!(
            !available.is_empty(),
            "the target's server has no TimescaleDB; install version {wanted}, with which the backup was made"
        );
        ensure!(
            available.contains(wanted),
            "the backup was made with TimescaleDB {wanted}, the target's server offers {}; restore on a server with \
             {wanted}, then update the extension there",
            available.join(", ")
        );
        queries::create_extension(&mut connection, wanted).await.explained(
            "creating the extension (the embedded server must be restarted after an extension was dropped)",
        )?;
    }
    let (_, server) = open(config).await?;
    let edition = server.edition.to_string();
    ensure!(
        edition == content.edition,
        "the backup was made with TimescaleDB's {} edition, the target has the {edition} edition: their schemas \
         differ; restore into a server with the {} edition",
        content.edition,
        content.edition
    );
    let major = |version: &str| version.split('.').next().unwrap_or_default().to_owned();
    if major(&server.postgres_version) != major(&content.server_version) {
        tracing::warn!(
            "the backup was made with PostgreSQL {}, the target server is {}",
            content.server_version,
            server.postgres_version
        );
    }
    Ok(())
}

async fn missing_roles(config: &PostgresConfig, content: &PostgresContent) -> anyhow::Result<Vec<String>> {
    let mut connection = connect(config, APPLICATION).await?;
    let there = queries::roles(&mut connection).await.explained("listing roles")?;
    Ok(content
        .roles
        .iter()
        .filter(|role| !there.contains(role))
        .cloned()
        .collect())
}

/// Restores the dump in one transaction.
async fn fill(
    config: &PostgresConfig,
    programs: Option<&Path>,
    dump: &Path,
    missing_roles: &[String],
) -> anyhow::Result<()> {
    let database = config
        .connection_options(APPLICATION)?
        .get_dbname()
        .unwrap_or("postgres")
        .to_owned();
    let mut tool = tool(config, programs, "pg_restore")?.args([
        "--single-transaction",
        "--exit-on-error",
        "--no-password",
        &format!("--dbname={database}"),
    ]);
    if !missing_roles.is_empty() {
        tracing::warn!(
            "owners and privileges are not restored, because the target server lacks these roles: {}",
            missing_roles.join(", ")
        );
        tool = tool.args(["--no-owner", "--no-privileges"]);
    }
    tool.arg(dump)
        .run()
        .await
        .with_context(|| format!("restoring into the database at {} failed and left it empty", config.url))?;
    Ok(())
}

fn compare(wanted: &[TableTotal], found: &[TableTotal]) -> anyhow::Result<()> {
    let differences = differences(wanted, found);
    if differences.is_empty() {
        return Ok(());
    }
    bail!(
        "the restored database differs from the backup: {}; drop it and do not start the workers on it",
        differences.join("; ")
    );
}

fn differences(wanted: &[TableTotal], found: &[TableTotal]) -> Vec<String> {
    let shown = |total: &TableTotal| match &total.volume {
        Some(volume) => format!("{} rows, volume {volume}", total.rows),
        None => format!("{} rows", total.rows),
    };
    let of_table = |wanted: &TableTotal| {
        let found = found.iter().find(|found| found.table == wanted.table);
        (found != Some(wanted)).then(|| {
            format!(
                "{} has {} instead of {}",
                wanted.table,
                found.map_or("nothing".to_owned(), shown),
                shown(wanted)
            )
        })
    };
    wanted.iter().filter_map(of_table).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn total(table: &str, rows: i64, volume: Option<&str>) -> TableTotal {
        TableTotal {
            table: table.into(),
            rows,
            volume: volume.map(Into::into),
        }
    }

    #[test]
    fn a_difference_of_one_lot_is_named() {
        let wanted = [total("candles_1m", 2, Some("10")), total("symbols", 1, None)];
        assert!(differences(&wanted, &wanted).is_empty());
        let found = [total("candles_1m", 2, Some("11")), total("symbols", 1, None)];
        assert_eq!(
            differences(&wanted, &found),
            ["candles_1m has 2 rows, volume 11 instead of 2 rows, volume 10"]
        );
        assert_eq!(
            differences(&wanted[1..], &[]),
            ["symbols has nothing instead of 1 rows"]
        );
    }
}
