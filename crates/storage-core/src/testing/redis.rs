//! A Redis server for each test.
//!
//! The server that `REDIS_URL` names is emptied and used instead; such tests must run one after the other.

use std::env;
use std::time::Duration;

use anyhow::Context;
use redis::{RedisResult, cmd};
use tempfile::TempDir;

use super::polling::until;
use super::process::{ServerProcess, free_port};
use crate::config::redis::RedisConfig;
use crate::domain::entry::Fields;
use crate::domain::stream_id::StreamId;
use crate::redis::connection::Connection;
use crate::redis::position::position_of;
use crate::redis::stream::{Stream, add, range};
use crate::redis::{functions, groups, hot, partitions};

const PATIENCE: Duration = Duration::from_secs(60);
/// Limit of attempts to start on a free port, which another process may take first.
const ATTEMPTS: u32 = 5;

/// An empty Redis that only this test uses. Dropping it ends the server.
#[derive(Debug)]
pub struct TestRedis {
    config: RedisConfig,
    _server: Option<ServerProcess>,
}

impl TestRedis {
    /// Starts a server, or empties the one that `REDIS_URL` names.
    pub async fn start() -> Self {
        let started = match env::var("REDIS_URL") {
            Ok(url) if !url.is_empty() => Self::emptied(&url).await,
            _ => Self::own(&[]).await,
        };
        started.unwrap_or_else(|error| panic!("a Redis for the test: {error:#}"))
    }

    /// Starts a server with further options of redis-server; ignores `REDIS_URL`.
    pub async fn start_with(options: &[&str]) -> Self {
        let started = Self::own(options).await;
        started.unwrap_or_else(|error| panic!("a Redis for the test: {error:#}"))
    }

    /// Starts a server like [`TestRedis::start`], and calls [`prepare`].
    pub async fn prepared(partitions: u16) -> Self {
        let redis = Self::start().await;
        prepare(&mut redis.connect(), partitions).await;
        redis
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
        let port = free_port()?.to_string();
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

    /// Returns the configuration of a client of this Redis.
    pub fn config(&self) -> RedisConfig {
        self.config.clone()
    }

    /// Returns the URL of this Redis.
    pub fn url(&self) -> &str {
        self.config.url.expose()
    }

    /// Opens a connection to this Redis.
    pub fn connect(&self) -> Connection {
        Connection::ordinary(&self.config)
    }

    /// Adds an entry and returns its ID.
    pub async fn add(&self, stream: Stream, fields: &Fields) -> StreamId {
        let id: String = add(stream, fields)
            .query_async(&mut self.connect())
            .await
            .expect("XADD");
        id.parse().expect("a stream ID")
    }

    /// Adds entries in their order.
    pub async fn add_all(&self, stream: Stream, entries: &[Fields]) {
        let mut connection = self.connect();
        for batch in entries.chunks(1_000) {
            let mut pipeline = redis::pipe();
            for fields in batch {
                pipeline.add_command(add(stream, fields)).ignore();
            }
            pipeline.exec_async(&mut connection).await.expect("XADD");
        }
    }

    /// Returns the entries of a stream, each as `name=value name=value`.
    pub async fn entries(&self, stream: Stream) -> Vec<String> {
        let last = StreamId {
            ms: u64::MAX,
            seq: u64::MAX,
        };
        let entries = range(&mut self.connect(), stream, StreamId::START, last, 100_000).await;
        let entries = entries.expect("XRANGE").into_iter();
        entries
            .map(|entry| entry.fields().map(field_text).collect::<Vec<_>>().join(" "))
            .collect()
    }

    /// Waits until `group` has read and acknowledged every entry of `stream`.
    pub async fn drained(&self, stream: Stream, group: &str) {
        let mut connection = self.connect();
        until(&format!("{group} has finished {stream}"), async || {
            let position = position_of(&mut connection, stream, group).await;
            match position.map_err(|error| error.to_string())? {
                Some(position) if position.has_finished() => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }
}

fn field_text((name, value): (&[u8], &[u8])) -> String {
    format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
}

/// Writes to an empty Redis what `aggregator-admin migrate` writes for hot-writer.
pub async fn prepare(connection: &mut Connection, count: u16) {
    partitions::store_once(connection, count)
        .await
        .expect("the number of partitions");
    functions::load(connection).await.expect("functions");
    for partition in 0..count {
        let note = hot::complete_from_start(partition);
        note.exec_async(connection).await.expect("a new Redis");
    }
    for stream in Stream::all(count) {
        for group in stream.groups() {
            groups::create(connection, stream, group).await.expect("a group");
        }
    }
}

/// Returns `true` if the server is the one that keeps its files in `data`.
async fn is_at(config: &RedisConfig, data: &str) -> RedisResult<bool> {
    let (_, dir): (String, String) = cmd("CONFIG")
        .arg("GET")
        .arg("dir")
        .query_async(&mut Connection::ordinary(config))
        .await?;
    Ok(dir == data)
}
