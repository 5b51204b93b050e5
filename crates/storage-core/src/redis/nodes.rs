//! The servers behind a URL, one by one, for what a cluster does not do as one: memory, backups.

use std::collections::BTreeSet;

use redis::{RedisResult, Value, cmd};

use super::connection::{self, Connection};
use super::reply;
use crate::config::redis::RedisConfig;
use crate::config::redis_servers::RedisServers;

/// How each master is reached by itself: the masters of a cluster, or the one server that there is.
///
/// # Errors
/// When Redis can't be asked.
pub async fn masters(config: &RedisConfig) -> RedisResult<Vec<RedisConfig>> {
    if !matches!(connection::servers(config)?, RedisServers::Cluster(_)) {
        return Ok(vec![config.clone()]);
    }
    let slots: Value = cmd("CLUSTER")
        .arg("SLOTS")
        .query_async(&mut Connection::ordinary(config))
        .await?;
    let mut addresses = BTreeSet::new();
    for range in reply::array(slots)? {
        // from, to, the master, its replicas
        let master = reply::array(range)?.into_iter().nth(2).unwrap_or(Value::Nil);
        let (host, port): (String, u16) = match reply::array(master)?.as_slice() {
            [host, port, ..] => (redis::from_redis_value_ref(host)?, redis::from_redis_value_ref(port)?),
            _ => continue,
        };
        addresses.insert((host, port));
    }
    Ok(addresses
        .into_iter()
        .map(|(host, port)| config.for_node(&host, port))
        .collect())
}
