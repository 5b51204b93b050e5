//! PostgreSQL's roles as `deploy/postgres` defines them; each password is the role's name.

use std::fs;
use std::path::Path;

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::process::Command;
use url::Url;

use super::native::PG_BIN;
use super::process::tool;
use crate::config::postgres::PostgresConfig;
use crate::postgres::connection::connect;
use crate::postgres::migrations;

/// Folder of the SQL scripts that an operator runs.
pub const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/postgres");

/// The roles that `roles.sql` creates.
pub const ROLES: [&str; 4] = ["aggregator-admin", "warm-syncer", "backup-runner", "reader"];

/// Prepares the database of `superuser` in the order of a deployment: roles, then the schema by its owner, then the
/// rights of the other roles.
pub async fn deploy(superuser: &PostgresConfig) -> anyhow::Result<()> {
    let secrets = TempDir::new()?;
    for role in ROLES {
        fs::write(secrets.path().join(format!("postgres-{role}")), role)?;
    }
    psql(superuser, "roles.sql", secrets.path()).await?;
    let owner = login(superuser, "aggregator-admin")?;
    migrations::run(connect(&owner, "test").await?).await?;
    psql(&owner, "grants.sql", secrets.path()).await
}

/// Returns the configuration of `role` for the database of `superuser`.
pub fn login(superuser: &PostgresConfig, role: &str) -> anyhow::Result<PostgresConfig> {
    let mut url = Url::parse(superuser.url.expose())?;
    let set = url.set_username(role).and_then(|()| url.set_password(Some(role)));
    ensure!(set.is_ok(), "no host in the database's URL");
    Ok(PostgresConfig {
        url: PostgresConfig::at(url.as_str())?.url,
        password_file: None,
        ..superuser.clone()
    })
}

async fn psql(config: &PostgresConfig, script: &str, secrets: &Path) -> anyhow::Result<()> {
    let program = tool("PG_BIN", PG_BIN).context("no psql")?.join("psql");
    let mut command = Command::new(program);
    command
        .args(["-X", "-f", script, config.url.expose()])
        .env("POSTGRES_SECRETS", secrets)
        .current_dir(SCRIPTS);
    if let Some(file) = &config.password_file {
        command.env("PGPASSWORD", fs::read_to_string(file)?.trim_end());
    }
    let output = command.output().await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{script}: {errors}");
    Ok(())
}
