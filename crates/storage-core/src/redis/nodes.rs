//! The single servers of a cluster, for work that a cluster can't do as a whole, such as backups.

use std::collections::BTreeSet;

use redis::{RedisResult, Value, cmd};

use super::connection::{self, Connection};
use super::reply;
use crate::config::redis::RedisConfig;
use crate::config::redis_servers::RedisServers;

/// Returns a configuration to reach each master of a cluster directly, or that of the single server.
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
        // The parts of a range are its first slot, its last slot, the master and the replicas.
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
