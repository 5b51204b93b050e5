//! Takes an RDB over the network, as a replica would, and notes what the server says about its persistence.

use std::path::Path;

use anyhow::{Context, bail};
use chrono::DateTime;
use redis::ConnectionAddr;
use storage_core::config::redis::RedisConfig;
use storage_core::redis::connection::{self, Connection};
use storage_core::redis::stream::{self, Stream};
use storage_core::redis::{inspect, partitions};

use super::{FILE, check};
use crate::config::Config;
use crate::destination::Destination;
use crate::manifest::{AofState, Content, Kind, Manifest, RedisContent, StreamLength};
use crate::tool::{self, Tool};

/// Backs up the Redis of `redis.url`.
pub(crate) async fn backup(config: &Config, destination: &Destination) -> anyhow::Result<Manifest> {
    let programs = config.backup.redis_bin.as_deref();
    let mut content = state(&config.redis).await?;
    let draft = destination.begin(Kind::Redis)?;
    let rdb = draft.path(FILE);
    fetch(&config.redis, programs, &rdb).await?;
    let counted = check(programs, &rdb).await?;
    content.keys = counted.keys;
    content.keys_with_expiry = counted.with_expiry;
    draft
        .seal(
            Content::Redis(content),
            vec![made_by(), tool::version(programs, "redis-cli").await?],
        )
        .await
}

fn made_by() -> String {
    concat!("backup-runner ", env!("CARGO_PKG_VERSION")).to_owned()
}

/// What the server says about itself; the keys are counted in the RDB.
async fn state(config: &RedisConfig) -> anyhow::Result<RedisContent> {
    let mut conn = Connection::ordinary(config);
    let asking = || format!("asking Redis at {}", config.url);
    let info = inspect::info(&mut conn).await.with_context(asking)?;
    if info.flag("loading") {
        bail!("Redis at {} still loads its data; back it up when it has", config.url);
    }
    let partitions = partitions::stored(&mut conn).await.with_context(asking)?;
    let mut streams = Vec::new();
    for stream in Stream::all(partitions.unwrap_or(0)) {
        let entries = stream::length(&mut conn, stream).await.with_context(asking)?;
        streams.push(StreamLength {
            stream: stream.key().to_string(),
            entries,
        });
    }
    let text = |field: &str| info.text(field).unwrap_or("unknown").to_owned();
    Ok(RedisContent {
        server_version: text("redis_version"),
        role: text("role"),
        replication_offset: info.number("master_repl_offset").unwrap_or(0),
        keys: 0,
        keys_with_expiry: 0,
        functions: inspect::libraries(&mut conn).await.with_context(asking)?,
        partitions,
        streams,
        rdb_last_save: info
            .number("rdb_last_save_time")
            .and_then(|seconds| DateTime::from_timestamp(seconds, 0)),
        aof: AofState {
            enabled: info.flag("aof_enabled"),
            fsync: inspect::setting(&mut conn, "appendfsync").await.with_context(asking)?,
            last_write_ok: info.text("aof_last_write_status") == Some("ok"),
            last_rewrite_ok: info.text("aof_last_bgrewrite_status") == Some("ok"),
            rewrite_in_progress: info.flag("aof_rewrite_in_progress"),
            size_bytes: info.number("aof_current_size"),
        },
    })
}

/// Has redis-cli fetch an RDB.
async fn fetch(config: &RedisConfig, programs: Option<&Path>, rdb: &Path) -> anyhow::Result<()> {
    let client = connection::client(config).await?;
    let info = client.get_connection_info();
    let mut tool = Tool::new(programs, "redis-cli");
    match info.addr() {
        ConnectionAddr::Unix(socket) => tool = tool.arg("-s").arg(socket),
        ConnectionAddr::Tcp(host, port) => tool = tool.args(["-h", host, "-p", &port.to_string()]),
        ConnectionAddr::TcpTls {
            host, port, insecure, ..
        } => {
            tool = tool.args(["-h", host, "-p", &port.to_string(), "--tls", "--sni", host]);
            if *insecure {
                tool = tool.arg("--insecure");
            }
            for (option, file) in [
                ("--cacert", &config.ca_file),
                ("--cert", &config.cert_file),
                ("--key", &config.key_file),
            ] {
                if let Some(file) = file {
                    tool = tool.arg(option).arg(file);
                }
            }
        }
        _ => bail!("redis-cli knows no way to {}", config.url),
    }
    if let Some(user) = info.redis_settings().username() {
        tool = tool.args(["--user", user]);
    }
    if let Some(password) = info.redis_settings().password() {
        tool = tool.env("REDISCLI_AUTH", password);
    }
    tool.arg("--rdb")
        .arg(rdb)
        .run()
        .await
        .with_context(|| format!("fetching an RDB from Redis at {}", config.url))?;
    Ok(())
}
