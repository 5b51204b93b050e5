//! Streams that no worker reads: of a partition that does not exist, or with a misspelt name.

use redis::{RedisResult, cmd};

use super::connection::Connection;
use super::nodes::masters;
use super::stream::Stream;
use crate::config::redis::RedisConfig;

/// Number of keys that a step of the scan visits.
const COUNT: usize = 1_000;

/// Returns the keys of all streams whose names begin with `stream` and that are not streams of a pipeline with
/// `partitions`, sorted, with their numbers of entries.
pub async fn unread(config: &RedisConfig, partitions: u16) -> RedisResult<Vec<(String, u64)>> {
    let known: Vec<String> = Stream::all(partitions)
        .iter()
        .map(|stream| stream.key().to_string())
        .collect();
    let mut found = Vec::new();
    for master in masters(config).await? {
        let mut conn = Connection::ordinary(&master);
        let mut cursor = 0_u64;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor)
                .arg("MATCH")
                .arg("stream*")
                .arg("COUNT")
                .arg(COUNT)
                .arg("TYPE")
                .arg("stream");
            let (next, keys): (u64, Vec<String>) = scan.query_async(&mut conn).await?;
            for key in keys.into_iter().filter(|key| !known.contains(key)) {
                let entries = cmd("XLEN").arg(&key).query_async(&mut conn).await?;
                found.push((key, entries));
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
