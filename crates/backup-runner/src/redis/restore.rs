//! Restores an RDB into a running, empty Redis. Keys are copied over connections, so the server's files and settings
//! stay untouched; expired keys are left out.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use chrono::Utc;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use storage_core::config::redis::RedisConfig;
use storage_core::config::redis_servers::RedisServers;
use storage_core::redis::connection::{self, Connection};
use storage_core::redis::transfer::{self, Expiry, RawKey};
use storage_core::redis::{inspect, nodes};

use super::temporary::{RESPONSE_TIMEOUT, Temporary, connect};

/// Number of keys that are copied together.
const BATCH: usize = 100;
/// Number of keys that an error names.
const NAMED: usize = 3;
/// Tolerated difference between two servers' clocks when a key expires.
const EXPIRY_SLACK_MS: i64 = 1_000;

/// Number of restored keys, streams and entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) keys: u64,
    pub(crate) streams: u64,
    pub(crate) stream_entries: u64,
}

/// Copies RDBs into the Redis of `config` and compares the result. The number of RDBs and of masters may differ; either
/// side may be a cluster or one server.
pub(crate) async fn restore(
    config: &RedisConfig,
    programs: Option<&Path>,
    rdbs: &[PathBuf],
) -> anyhow::Result<Restored> {
    let masters = nodes::masters(config)
        .await
        .map_err(|error| connection::explained(error, config))?;
    let mut servers = Vec::new();
    for master in &masters {
        let mut server = connect(&connection::client(master).await?)
            .await
            .with_context(|| format!("connecting to Redis at {}", master.url))?;
        refuse_unless_empty(master, &mut server).await?;
        servers.push(server);
    }
    let mut target = match (config.servers()?, servers.first()) {
        (RedisServers::Cluster(_), _) | (_, None) => Target::Cluster(Connection::ordinary(&RedisConfig {
            response_timeout: RESPONSE_TIMEOUT,
            ..config.clone()
        })),
        (_, Some(server)) => Target::Server(server.clone()),
    };
    let mut restored = Restored::default();
    for rdb in rdbs {
        let temporary = Temporary::serve(programs, rdb).await?;
        let mut source = temporary.connect().await?;
        copy(&mut source, &mut servers, &mut target, &mut restored)
            .await
            .with_context(|| {
                format!(
                    "Redis at {} may hold a part of the backup now; empty it with FLUSHALL before the next attempt",
                    config.url
                )
            })?;
    }
    Ok(restored)
}

/// Destination of the keys.
enum Target {
    /// One server, over a connection that does not reconnect: that would select database 0.
    Server(MultiplexedConnection),
    /// A cluster, which has one database. The connection finds the master of each key.
    Cluster(Connection),
}

async fn refuse_unless_empty(config: &RedisConfig, target: &mut MultiplexedConnection) -> anyhow::Result<()> {
    let keyspace = inspect::info(target)
        .await
        .context("checking that the target Redis is empty")?
        .keyspace();
    let Some((database, _)) = keyspace.first_key_value() else {
        return Ok(());
    };
    let total: u64 = keyspace.values().sum();
    if *database != 0 {
        transfer::select(target, *database).await?;
    }
    let (_, some) = transfer::scan(target, 0, NAMED).await?;
    let names: Vec<_> = some
        .iter()
        .take(NAMED)
        .map(|key| String::from_utf8_lossy(key))
        .collect();
    bail!(
        "Redis at {} is not empty: it holds {total} keys, among them {}; restore into an empty one, or stop the \
         workers and run FLUSHALL there",
        config.url,
        names.join(", ")
    );
}

async fn copy(
    source: &mut MultiplexedConnection,
    servers: &mut [MultiplexedConnection],
    target: &mut Target,
    restored: &mut Restored,
) -> anyhow::Result<()> {
    let functions = transfer::dump_functions(source)
        .await
        .context("reading the functions")?;
    for server in servers {
        transfer::restore_functions(server, &functions)
            .await
            .context("restoring the functions")?;
    }
    let databases: BTreeMap<i64, u64> = inspect::info(source).await?.keyspace();
    for database in databases.into_keys() {
        transfer::select(source, database).await?;
        match target {
            Target::Server(server) => {
                transfer::select(server, database)
                    .await
                    .with_context(|| format!("selecting database {database}, in which the backup has keys"))?;
                copy_database(source, server, restored).await?;
            }
            Target::Cluster(cluster) => {
                ensure!(
                    database == 0,
                    "the backup has keys in database {database}, but a cluster has only database 0; restore into a \
                     single server"
                );
                copy_database(source, cluster, restored).await?;
            }
        }
    }
    Ok(())
}

async fn copy_database(
    source: &mut MultiplexedConnection,
    target: &mut impl ConnectionLike,
    restored: &mut Restored,
) -> anyhow::Result<()> {
    let copied = copy_keys(source, target).await?;
    compare(source, target, &copied, restored).await
}

async fn copy_keys(
    source: &mut MultiplexedConnection,
    target: &mut impl ConnectionLike,
) -> anyhow::Result<Vec<RawKey>> {
    let (mut copied, mut cursor) = (HashSet::new(), 0);
    loop {
        let (next, mut keys) = transfer::scan(source, cursor, BATCH)
            .await
            .context("listing the keys")?;
        keys.retain(|key| copied.insert(key.clone()));
        for batch in keys.chunks(BATCH) {
            let dumped = transfer::dump(source, batch)
                .await
                .context("reading keys from the backup")?;
            transfer::restore(target, &dumped)
                .await
                .context("writing keys; stop every other client of the target Redis")?;
        }
        cursor = next;
        if cursor == 0 {
            return Ok(copied.into_iter().collect());
        }
    }
}

/// Requires the same expiry for every key, and the same entries and groups for every stream.
async fn compare(
    source: &mut MultiplexedConnection,
    target: &mut impl ConnectionLike,
    keys: &[RawKey],
    restored: &mut Restored,
) -> anyhow::Result<()> {
    for batch in keys.chunks(BATCH) {
        let wanted = transfer::expiry(source, batch).await?;
        let found = transfer::expiry(target, batch).await?;
        for ((key, wanted), found) in batch.iter().zip(wanted).zip(found) {
            let named = || {
                format!(
                    "key {} was not restored: its expiry is {found:?} instead of {wanted:?}",
                    String::from_utf8_lossy(key)
                )
            };
            ensure!(is_copied(wanted, found, Utc::now().timestamp_millis()), named());
            restored.keys += u64::from(found != Expiry::Missing);
        }
        for stream in transfer::streams_among(source, batch).await? {
            let wanted = transfer::stream_state(source, &stream).await?;
            let found = transfer::stream_state(target, &stream).await?;
            ensure!(
                wanted == found,
                "stream {} differs from the backup: {found:?} instead of {wanted:?}",
                String::from_utf8_lossy(&stream)
            );
            restored.streams += 1;
            restored.stream_entries += found.0;
        }
    }
    Ok(())
}

/// Returns `true` if a key was restored. A key that expires about now may be missing on either side.
fn is_copied(wanted: Expiry, found: Expiry, now_ms: i64) -> bool {
    match (wanted, found) {
        (Expiry::At(at_ms), Expiry::Missing) => at_ms <= now_ms + EXPIRY_SLACK_MS,
        (Expiry::Missing, _) => true,
        _ => wanted == found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_only_be_missing_after_it_expired() {
        assert!(is_copied(Expiry::Never, Expiry::Never, 0));
        assert!(!is_copied(Expiry::Never, Expiry::Missing, 0));
        assert!(is_copied(Expiry::At(50_000), Expiry::At(50_000), 0));
        assert!(!is_copied(Expiry::At(50_000), Expiry::At(50_001), 0));
        assert!(!is_copied(Expiry::At(50_000), Expiry::Missing, 10_000));
        assert!(is_copied(Expiry::At(50_000), Expiry::Missing, 50_000));
    }
}
