//! Brings an RDB back into a running Redis that is empty: key by key, so that neither its files nor its settings need to
//! be touched. What has expired since stays away.

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

/// Keys that are copied together.
const BATCH: usize = 100;
/// Keys that a refusal names.
const NAMED: usize = 3;
/// Two servers may disagree by this much about whether a key has expired.
const EXPIRY_SLACK_MS: i64 = 1_000;

/// What was copied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) keys: u64,
    pub(crate) streams: u64,
    pub(crate) stream_entries: u64,
}

/// Copies RDBs into the Redis of `config`, and compares. Each may hold what one master had; the target may be a cluster, of
/// another size, or one server.
///
/// # Errors
/// When the target holds keys, something can't be copied, or the copy is not the same.
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
                    "the Redis at {} may hold a part of the backup now; empty it before the next attempt",
                    config.url
                )
            })?;
    }
    Ok(restored)
}

/// What takes the keys.
enum Target {
    /// A connection that doesn't reopen itself: it would be in another database then.
    Server(MultiplexedConnection),
    /// Has one database, and finds the master of each key.
    Cluster(Connection),
}

async fn refuse_unless_empty(config: &RedisConfig, target: &mut MultiplexedConnection) -> anyhow::Result<()> {
    let keyspace = inspect::info(target)
        .await
        .context("asking what the target holds")?
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
        "the Redis at {} is not empty: it holds {total} keys, among them {}; restore into an empty one, or stop the workers and \
         empty it with FLUSHALL",
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
                    .with_context(|| format!("the backup has keys in database {database}"))?;
                copy_database(source, server, restored).await?;
            }
            Target::Cluster(cluster) => {
                ensure!(
                    database == 0,
                    "the backup has keys in database {database}, and a cluster has only database 0"
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
                .context("reading keys of the backup")?;
            transfer::restore(target, &dumped)
                .await
                .context("writing keys; nothing else may write there meanwhile")?;
        }
        cursor = next;
        if cursor == 0 {
            return Ok(copied.into_iter().collect());
        }
    }
}

/// Every key must be there with the same expiry, every stream with the same entries and groups.
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
                    "{} was not restored: {found:?} instead of {wanted:?}",
                    String::from_utf8_lossy(key)
                )
            };
            ensure!(is_copied(wanted, found, Utc::now().timestamp_millis()), named());
            restored.keys += u64::from(found != Expiry::Gone);
        }
        for stream in transfer::streams_among(source, batch).await? {
            let wanted = transfer::stream_state(source, &stream).await?;
            let found = transfer::stream_state(target, &stream).await?;
            ensure!(
                wanted == found,
                "{} is another stream than in the backup: {found:?} instead of {wanted:?}",
                String::from_utf8_lossy(&stream)
            );
            restored.streams += 1;
            restored.stream_entries += found.0;
        }
    }
    Ok(())
}

/// Whether a key is there as it should be; one that expires about now may be gone in either place.
fn is_copied(wanted: Expiry, found: Expiry, now_ms: i64) -> bool {
    match (wanted, found) {
        (Expiry::At(at_ms), Expiry::Gone) => at_ms <= now_ms + EXPIRY_SLACK_MS,
        (Expiry::Gone, _) => true,
        _ => wanted == found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_may_only_be_missing_when_its_time_has_come() {
        assert!(is_copied(Expiry::Never, Expiry::Never, 0));
        assert!(!is_copied(Expiry::Never, Expiry::Gone, 0));
        assert!(is_copied(Expiry::At(50_000), Expiry::At(50_000), 0));
        assert!(!is_copied(Expiry::At(50_000), Expiry::At(50_001), 0));
        assert!(!is_copied(Expiry::At(50_000), Expiry::Gone, 10_000));
        assert!(is_copied(Expiry::At(50_000), Expiry::Gone, 50_000));
    }
}
