//! A native PostgreSQL server with TimescaleDB's Apache edition and a data folder of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use super::polling::PATIENCE;
use super::process::{ServerProcess, free_port, text, tool};
use super::skip::skip;
use crate::config::postgres::PostgresConfig;
use crate::postgres::connection::connect;

/// Folder into which `scripts/services tools` links PostgreSQL's programs.
pub const PG_BIN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.dev/bin");

/// Settings for a small and fast server without background workers: a scheduler in a template would prevent copying it.
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
    command: Vec<String>,
    small_disk: Option<PathBuf>,
    process: Option<ServerProcess>,
    /// The data folder while the server is stopped.
    folder: Option<Arc<TempDir>>,
}

impl NativeServer {
    /// Starts a server whose user `postgres` has `password`, or needs none, with `settings` (`name=value`) that
    /// override the usual ones. If PostgreSQL is not installed, it skips the test and returns `None`.
    pub async fn start(password: Option<&str>, settings: &[&str]) -> anyhow::Result<Option<Self>> {
        Self::start_if_installed(password, settings, None)
            .await
            .inspect(or_skip)
    }

    /// Starts a server that has a second disk of `megabytes` at [`NativeServer::small_disk`]. Its content is lost when
    /// the server stops.
    pub async fn start_with_small_disk(megabytes: u32) -> anyhow::Result<Option<Self>> {
        Self::start_if_installed(None, &[], Some(megabytes))
            .await
            .inspect(or_skip)
    }

    pub(super) async fn start_if_installed(
        password: Option<&str>,
        settings: &[&str],
        small_disk_megabytes: Option<u32>,
    ) -> anyhow::Result<Option<Self>> {
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

        let port = free_port()?.to_string();
        let small_disk = small_disk_megabytes.map(|_| folder.path().join("small-disk"));
        let mut command = Vec::new();
        if let (Some(disk), Some(megabytes)) = (&small_disk, small_disk_megabytes) {
            fs::create_dir(disk)?;
            command.extend(["env".to_owned(), format!("SMALL_DISK={megabytes}m {}", text(disk)?)]);
        }
        let server = programs.join("postgres");
        command.extend([text(&server)?, "-D", text(&data)?, "-p", &port].map(str::to_owned));
        // The last value of a setting counts.
        for setting in SETTINGS.iter().chain(settings) {
            command.extend(["-c", setting].map(str::to_owned));
        }
        let login = password.map(|password| format!(":{password}")).unwrap_or_default();
        let mut server = Self {
            config: patient(&format!("postgres://postgres{login}@127.0.0.1:{port}/postgres"))?,
            command,
            small_disk,
            process: None,
            folder: Some(folder.into()),
        };
        server.resume().await?;
        Ok(Some(server))
    }

    /// Returns the superuser's configuration.
    pub fn config(&self) -> &PostgresConfig {
        &self.config
    }

    /// Returns the folder of the second disk, if the server was started with one.
    pub fn small_disk(&self) -> Option<&Path> {
        self.small_disk.as_deref()
    }

    /// Ends the server without a checkpoint; the next start recovers from its log.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(process) = self.process.take() {
            self.folder = Some(process.stop()?);
        }
        Ok(())
    }

    /// Starts the server again after [`NativeServer::stop`], at the same address.
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        let Some(folder) = self.folder.take() else {
            return Ok(());
        };
        let command: Vec<&str> = self.command.iter().map(String::as_str).collect();
        let process = ServerProcess::start(&command, "QUIT", folder)?;
        process
            .until(PATIENCE, async || connect(&self.config, "test").await.ok())
            .await
            .context("native server")?;
        self.process = Some(process);
        Ok(())
    }
}

/// Returns the configuration for a server at `url`, with a timeout for a machine that is busy with other tests.
pub(super) fn patient(url: &str) -> anyhow::Result<PostgresConfig> {
    Ok(PostgresConfig {
        connect_timeout: PATIENCE,
        ..PostgresConfig::at(url)?
    })
}

fn or_skip(server: &Option<NativeServer>) {
    if server.is_none() {
        skip("no PostgreSQL server; run `scripts/services tools`");
    }
}
