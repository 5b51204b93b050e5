//! A native PostgreSQL server with TimescaleDB's Apache edition, in a folder of its own.

use std::fs;
use std::net::TcpListener;

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use super::process::{PATIENCE, ServerProcess, text, tool};
use crate::config::postgres::PostgresConfig;
use crate::postgres::connection::connect;

const PG_BIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.dev/bin");

/// Small and fast, and without background workers: a scheduler in a template would keep it from being copied.
const SETTINGS: [&str; 8] = [
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "shared_preload_libraries=timescaledb",
    "timescaledb.telemetry_level=off",
    "timescaledb.max_background_workers=0",
    "fsync=off",
    "max_connections=200",
    "max_locks_per_transaction=256",
];

/// A native server. Dropping it ends the server and removes its data.
#[derive(Debug)]
pub struct NativeServer {
    config: PostgresConfig,
    _process: ServerProcess,
}

impl NativeServer {
    /// Starts a server that asks `postgres` for `password`, or nobody for any, with `settings` (`name=value`) that go
    /// before the usual ones. `None` where PostgreSQL is not installed.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(password: Option<&str>, settings: &[&str]) -> anyhow::Result<Option<Self>> {
        let Some(programs) = tool("PG_BIN", PG_BIN).filter(|folder| folder.join("initdb").exists()) else {
            return Ok(None);
        };
        let folder = TempDir::new()?;
        let data = folder.path().join("data");
        let mut initdb = Command::new(programs.join("initdb"));
        initdb
            .args(["-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D"])
            .arg(&data);
        if let Some(password) = password {
            let file = folder.path().join("password");
            fs::write(&file, password)?;
            initdb.args(["-A", "scram-sha-256", "--pwfile"]).arg(file);
        } else {
            initdb.args(["-A", "trust"]);
        }
        let initialised = initdb.output().await?;
        ensure!(
            initialised.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&initialised.stderr)
        );

        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let server = programs.join("postgres");
        let mut command = vec![text(&server)?, "-D", text(&data)?, "-p", &port];
        // Of two values the later counts.
        for setting in SETTINGS.iter().chain(settings) {
            command.extend(["-c", setting]);
        }
        let process = ServerProcess::start(&command, "QUIT", folder)?;
        let login = password.map(|password| format!(":{password}")).unwrap_or_default();
        let config = super::postgres::patient(&format!("postgres://postgres{login}@127.0.0.1:{port}/postgres"))?;
        process
            .until(PATIENCE, async || connect(&config, "test").await.ok())
            .await
            .context("native server")?;
        Ok(Some(Self {
            config,
            _process: process,
        }))
    }

    /// How its superuser reaches it.
    pub fn config(&self) -> &PostgresConfig {
        &self.config
    }
}
