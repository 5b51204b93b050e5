//! A Redis with the project's own configuration for each scenario, or the one that `REDIS_URL` names, emptied.

mod faults;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use redis::{Cmd, FromRedisValue, RedisResult};
use storage_core::config::redis::RedisConfig;
use storage_core::redis::connection::Connection;
use storage_core::testing::process::{PATIENCE, ServerProcess};
use tempfile::TempDir;

use crate::process::project;
use faults::Clock;
pub use faults::{Written, libfaketime};

/// A Redis that only one scenario uses.
#[derive(Debug)]
pub struct RedisServer {
    /// How it is reached with all rights.
    pub config: RedisConfig,
    port: Option<u16>,
    options: Vec<String>,
    clock: Option<Clock>,
    // Before `data`, as fields are dropped in order: a Redis whose folder is gone does not end.
    process: Option<ServerProcess>,
    data: TempDir,
}

impl RedisServer {
    /// Starts one, or empties the given one.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> anyhow::Result<Self> {
        let data = TempDir::new()?;
        if let Some(url) = given() {
            let server = Self {
                config: config(&url)?,
                port: None,
                options: Vec::new(),
                clock: None,
                data,
                process: None,
            };
            server.ask::<()>(&["FLUSHALL"]).await?;
            server.ask::<()>(&["FUNCTION", "FLUSH"]).await?;
            return Ok(server);
        }
        let mut attempts = 0;
        loop {
            let port = free_port()?;
            let url = format!("redis://127.0.0.1:{port}");
            let mut server = Self {
                config: config(&url)?,
                port: Some(port),
                options: Vec::new(),
                clock: None,
                data: TempDir::new()?,
                process: None,
            };
            match server.resume().await {
                Ok(()) => return Ok(server),
                Err(error) if attempts == 5 => return Err(error),
                Err(_) => attempts += 1, // somebody else took the port
            }
        }
    }

    /// Starts it again with further options, as `redis-server --option value` takes them.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart_with(&mut self, options: &[&str], config: RedisConfig) -> anyhow::Result<()> {
        self.stop();
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self.config = config;
        self.resume().await
    }

    /// Ends it; its data stays.
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it on its port and data.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        let port = self.port()?.to_string();
        let conf = project().join("redis/redis.conf");
        let folder = self.folder().to_str().context("a folder name")?.to_owned();
        let environment = self.clock_environment();
        let mut command = vec!["env"];
        command.extend(environment.iter().map(String::as_str));
        command.extend([
            "redis-server",
            conf.to_str().context("a file name")?,
            "--port",
            &port,
            "--dir",
            &folder,
        ]);
        command.extend(self.options.iter().map(String::as_str));
        let process = ServerProcess::start(&command, "KILL", TempDir::new()?)?;
        let own = async || {
            let dir: Vec<String> = self.ask(&["CONFIG", "GET", "dir"]).await.ok()?;
            dir.contains(&folder).then_some(())
        };
        process.until(PATIENCE, own).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Where it keeps its data.
    pub fn folder(&self) -> &Path {
        self.data.path()
    }

    /// The port of an own server.
    ///
    /// # Errors
    /// When it is a given one.
    pub fn port(&self) -> anyhow::Result<u16> {
        self.port.context("this Redis is not the scenario's own")
    }

    /// The URL that workers get.
    pub fn url(&self) -> &str {
        self.config.url.expose()
    }

    /// What Redis answers to a command.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn ask<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        let mut cmd = Cmd::new();
        command.iter().for_each(|part| {
            cmd.arg(part);
        });
        cmd.query_async(&mut self.connect()).await
    }

    /// A connection with all rights.
    pub fn connect(&self) -> Connection {
        Connection::ordinary(&self.config)
    }
}

/// The server that the environment names.
pub fn given() -> Option<String> {
    std::env::var("REDIS_URL").ok().filter(|url| !url.is_empty())
}

/// Patient, for a machine that does much else.
///
/// # Errors
/// When the URL is none.
pub fn config(url: &str) -> anyhow::Result<RedisConfig> {
    let password_file = std::env::var_os("REDIS_PASSWORD_FILE")
        .map(PathBuf::from)
        .filter(|_| given().is_some());
    Ok(RedisConfig {
        response_timeout: Duration::from_secs(30),
        password_file,
        ..RedisConfig::at(url)?
    })
}

/// A port that nobody listens on.
///
/// # Errors
/// When there is none.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
