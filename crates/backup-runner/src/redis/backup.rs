//! Backs up Redis: the RDBs of all masters and the state of their persistence.

use anyhow::{Context, bail};
use chrono::DateTime;
use storage_core::config::redis::RedisConfig;
use storage_core::redis::connection::{self, Connection};
use storage_core::redis::stream::{self, Stream};
use storage_core::redis::{inspect, nodes, partitions};

use super::{FILE, check, snapshot};
use crate::config::Config;
use crate::content::{AofState, Content, MasterContent, RedisContent, StreamLength};
use crate::destination::Destination;
use crate::draft::Draft;
use crate::manifest::{Kind, Manifest};
use crate::tool;

/// Backs up the Redis of `redis.url`.
pub(crate) async fn backup(config: &Config, destination: &Destination) -> anyhow::Result<Manifest> {
    let programs = config.backup.redis_bin.as_deref();
    let servers = nodes::masters(&config.redis)
        .await
        .map_err(|error| connection::explained(error, &config.redis))?;
    let mut masters = Vec::new();
    for (at, server) in servers.iter().enumerate() {
        let file = match servers.len() {
            1 => FILE.to_owned(),
            _ => format!("dump-{at}.rdb"),
        };
        masters.push(state(server, file).await?);
    }
    let mut content = contents(&config.redis, masters).await?;
    let draft = Draft::begin(destination, Kind::Redis)?;
    let files = content.rdbs().into_iter().map(|file| draft.path(file));
    let servers: Vec<_> = servers.into_iter().zip(files).collect();
    snapshot::take(&servers, programs).await?;
    for (at, (_, rdb)) in servers.iter().enumerate() {
        let counted = check(programs, rdb).await?;
        content.keys += counted.keys;
        content.keys_with_expiry += counted.with_expiry;
        if let Some(master) = content.masters.get_mut(at) {
            master.keys = counted.keys;
            master.keys_with_expiry = counted.with_expiry;
        }
    }
    let tool = tool::version(programs, "redis-cli").await?;
    draft.seal(Content::Redis(content), tool).await
}

/// Reads versions, role and persistence of a server. Keys are counted in the RDB later.
async fn state(server: &RedisConfig, file: String) -> anyhow::Result<(MasterContent, String)> {
    let mut conn = Connection::ordinary(server);
    let asking = || format!("reading the state of Redis at {}", server.url);
    let info = inspect::info(&mut conn).await.with_context(asking)?;
    if info.flag("loading") {
        bail!(
            "Redis at {} is still loading its data; repeat the backup when it has finished",
            server.url
        );
    }
    let text = |field: &str| info.text(field).unwrap_or("unknown").to_owned();
    let client = connection::client(server).await.with_context(asking)?;
    let master = MasterContent {
        file,
        address: client.get_connection_info().addr().to_string(),
        server_version: info.version(),
        replication_offset: info.number("master_repl_offset").unwrap_or(0),
        keys: 0,
        keys_with_expiry: 0,
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
    };
    Ok((master, text("role")))
}

/// Combines the masters and reads the lengths of the streams.
async fn contents(redis: &RedisConfig, states: Vec<(MasterContent, String)>) -> anyhow::Result<RedisContent> {
    let mut conn = Connection::ordinary(redis);
    let asking = || format!("reading the state of Redis at {}", redis.url);
    let partitions = partitions::stored(&mut conn).await.with_context(asking)?;
    let mut streams = Vec::new();
    for stream in Stream::all(partitions.unwrap_or(0)) {
        let entries = stream::length(&mut conn, stream).await.with_context(asking)?;
        streams.push(StreamLength {
            stream: stream.key().to_string(),
            entries,
        });
    }
    let functions = inspect::libraries(&mut conn).await.with_context(asking)?;
    let (masters, mut roles): (Vec<_>, Vec<_>) = states.into_iter().unzip();
    let first = masters.first().context("Redis has no master")?;
    Ok(RedisContent {
        server_version: first.server_version.clone(),
        role: roles.swap_remove(0),
        replication_offset: masters.iter().map(|master| master.replication_offset).sum(),
        keys: 0,
        keys_with_expiry: 0,
        functions,
        partitions,
        streams,
        rdb_last_save: masters.iter().filter_map(|master| master.rdb_last_save).min(),
        aof: AofState::worst_of(masters.iter().map(|master| &master.aof)),
        masters: if masters.len() == 1 { Vec::new() } else { masters },
    })
}
