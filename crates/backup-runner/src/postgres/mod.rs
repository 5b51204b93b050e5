//! PostgreSQL: logical dumps of the database, base backups of the server, and its WAL.

pub(crate) mod archive;
pub(crate) mod base;
pub(crate) mod logical;
pub(crate) mod lsn;
pub(crate) mod recovery;
pub(crate) mod restore;
pub(crate) mod segment;
pub(crate) mod wal;
mod wal_reader;

use std::path::Path;

use diesel_async::AsyncPgConnection;
use secrecy::ExposeSecret;
use storage_core::config::Misconfigured;
use storage_core::config::postgres::{PostgresConfig, SslMode};
use storage_core::postgres::connection::connect;
use storage_core::postgres::edition::Server;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::storage;
use tokio_postgres::config::Host;

use crate::content::TableTotal;
use crate::tool::Tool;

/// `application_name` of the connections.
const APPLICATION: &str = "backup-runner";

/// Connects, and detects versions and edition of the server.
async fn open(config: &PostgresConfig) -> anyhow::Result<(AsyncPgConnection, Server)> {
    let mut connection = connect(config, APPLICATION).await?;
    let server = Server::detect(&mut connection)
        .await
        .explained("detecting the versions of PostgreSQL and TimescaleDB")?;
    let server = server.ok_or_else(|| {
        Misconfigured::new(format!(
            "the database at {} has no TimescaleDB; run `aggregator-admin migrate`",
            config.url
        ))
    })?;
    Ok((connection, server))
}

/// Counts rows and sums volumes of every table.
async fn totals(connection: &mut AsyncPgConnection) -> anyhow::Result<Vec<TableTotal>> {
    let totals = storage::totals(connection).await.explained("counting rows")?;
    Ok(totals
        .into_iter()
        .map(|total| TableTotal {
            table: total.table_name,
            rows: total.rows,
            volume: total.volume,
        })
        .collect())
}

/// Returns a PostgreSQL program that connects with this configuration. It gets the settings through its environment:
/// other users can read a process's arguments, and so a password in them.
fn tool(config: &PostgresConfig, programs: Option<&Path>, name: &'static str) -> anyhow::Result<Tool> {
    let mut tool = Tool::new(programs, name);
    for (variable, value) in environment(config)? {
        tool = tool.env(variable, value);
    }
    Ok(tool)
}

fn environment(config: &PostgresConfig) -> anyhow::Result<Vec<(&'static str, String)>> {
    let options = config.connection_options(APPLICATION)?;
    let hosts = options.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(folder) => folder.display().to_string(),
    });
    let ports = options.get_ports().iter().map(u16::to_string);
    let list = |values: &mut dyn Iterator<Item = String>| values.collect::<Vec<_>>().join(",");
    let mut environment = vec![
        ("PGHOST", list(&mut hosts.into_iter())),
        ("PGPORT", list(&mut ports.into_iter())),
        ("PGAPPNAME", APPLICATION.to_owned()),
        ("PGCONNECT_TIMEOUT", config.connect_timeout.as_secs().max(2).to_string()),
        ("PGSSLMODE", ssl_mode(config).to_owned()),
    ];
    let mut set = |variable, value: Option<String>| environment.extend(value.map(|value| (variable, value)));
    set("PGUSER", options.get_user().map(ToOwned::to_owned));
    set("PGDATABASE", options.get_dbname().map(ToOwned::to_owned));
    set("PGOPTIONS", options.get_options().map(ToOwned::to_owned));
    let in_url = || {
        options
            .get_password()
            .map(|password| String::from_utf8_lossy(password).into_owned())
    };
    set(
        "PGPASSWORD",
        config
            .password()?
            .map(|password| password.expose_secret().to_owned())
            .or_else(in_url),
    );
    let authorities = match (&config.ca_file, config.ssl_mode()) {
        (Some(file), _) => Some(file.display().to_string()),
        (None, SslMode::VerifyFull) => Some("system".to_owned()),
        (None, _) => None,
    };
    set("PGSSLROOTCERT", authorities);
    Ok(environment)
}

fn ssl_mode(config: &PostgresConfig) -> &'static str {
    match config.ssl_mode() {
        SslMode::Disable => "disable",
        SslMode::Prefer => "prefer",
        SslMode::Require => "require",
        SslMode::VerifyFull => "verify-full",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment_of(url: &str) -> std::collections::BTreeMap<&'static str, String> {
        environment(&PostgresConfig::at(url).unwrap())
            .unwrap()
            .into_iter()
            .collect()
    }

    #[test]
    fn programs_get_the_connection_through_their_environment() {
        let environment = environment_of("postgres://u:p%40ss@a:1,b:2/market?sslmode=verify-full");
        assert_eq!(environment["PGHOST"], "a,b");
        assert_eq!(environment["PGPORT"], "1,2");
        assert_eq!(environment["PGUSER"], "u");
        assert_eq!(environment["PGDATABASE"], "market");
        assert_eq!(environment["PGPASSWORD"], "p@ss");
        assert_eq!(environment["PGSSLMODE"], "verify-full");
        assert_eq!(environment["PGSSLROOTCERT"], "system");
    }

    #[test]
    fn without_a_configured_password_libpq_finds_its_own() {
        let environment = environment_of("postgres://u@/market?host=/run/postgresql");
        assert_eq!(environment["PGHOST"], "/run/postgresql");
        assert!(!environment.contains_key("PGPASSWORD"), "{environment:?}");
    }
}
