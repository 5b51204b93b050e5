//! A Redis of its own for each test.
//!
//! Where `REDIS_URL` is set, that server is emptied and used instead; such tests must run one after the other.

use std::env;
use std::net::TcpListener;
use std::time::Duration;

use anyhow::Context;
use redis::{RedisResult, cmd};
use tempfile::TempDir;

use super::process::ServerProcess;
use crate::config::redis::RedisConfig;
use crate::redis::connection::Connection;

const PATIENCE: Duration = Duration::from_secs(10);
/// How often to try another port when somebody else took the one that was free.
const ATTEMPTS: u32 = 5;

/// An empty Redis that only this test uses. It ends when this is dropped.
#[derive(Debug)]
pub struct TestRedis {
    config: RedisConfig,
    _server: Option<ServerProcess>,
}

impl TestRedis {
    /// Starts a server, or empties the one that `REDIS_URL` names.
    ///
    /// # Panics
    /// When there is no server, as there are no tests without.
    pub async fn start() -> Self {
        let started = match env::var("REDIS_URL") {
            Ok(url) if !url.is_empty() => Self::emptied(&url).await,
            _ => Self::own(&[]).await,
        };
        started.unwrap_or_else(|error| panic!("a Redis for the test: {error:#}"))
    }

    /// Starts a server with further options of redis-server, whatever `REDIS_URL` says.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(options: &[&str]) -> Self {
        let started = Self::own(options).await;
        started.unwrap_or_else(|error| panic!("a Redis for the test: {error:#}"))
    }

    async fn emptied(url: &str) -> anyhow::Result<Self> {
        let config = RedisConfig::at(url)?;
        let mut connection = Connection::ordinary(&config);
        cmd("FLUSHALL").query_async::<()>(&mut connection).await?;
        Ok(Self { config, _server: None })
    }

    async fn own(further: &[&str]) -> anyhow::Result<Self> {
        let mut started = Self::spawn(further).await;
        for _ in 1..ATTEMPTS {
            if started.is_ok() {
                break;
            }
            started = Self::spawn(further).await;
        }
        started
    }

    async fn spawn(further: &[&str]) -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port().to_string();
        let folder = TempDir::new()?;
        let data = folder
            .path()
            .to_str()
            .context("the folder for temporary files")?
            .to_owned();
        let options = [
            "--bind",
            "127.0.0.1",
            "--port",
            &port,
            "--dir",
            &data,
            "--save",
            "",
            "--maxmemory-policy",
            "noeviction",
        ];
        let server = ServerProcess::start(&[&["redis-server"], &options[..], further].concat(), "KILL", folder)?;
        let config = RedisConfig::at(&format!("redis://127.0.0.1:{port}"))?;
        server
            .until(PATIENCE, async || is_at(&config, &data).await.ok().filter(|own| *own))
            .await?;
        Ok(Self {
            config,
            _server: Some(server),
        })
    }

    /// How a worker reaches this Redis.
    pub fn config(&self) -> RedisConfig {
        self.config.clone()
    }

    /// The URL of this Redis.
    pub fn url(&self) -> &str {
        self.config.url.expose()
    }

    /// A connection to it.
    pub fn connect(&self) -> Connection {
        Connection::ordinary(&self.config)
    }
}

/// Whether the server is the one that keeps its files in `data`.
async fn is_at(config: &RedisConfig, data: &str) -> RedisResult<bool> {
    let (_, dir): (String, String) = cmd("CONFIG")
        .arg("GET")
        .arg("dir")
        .query_async(&mut Connection::ordinary(config))
        .await?;
    Ok(dir == data)
}
