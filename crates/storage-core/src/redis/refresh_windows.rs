//! The ages from which warm-syncers announce changed minutes on `stream:rollups`: aggregator-admin has to refresh
//! everything younger.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, pipe};

use super::stream::WARM_SYNCER;
use super::{keys, lease};
use crate::domain::time::duration_ms;

/// Time after which the ages are removed unless a warm-syncer announces its age again, in ms.
const TTL_MS: i64 = 3_600_000;

/// Stores the age of a replica of warm-syncer. It has to be repeated within an hour.
pub async fn announce(conn: &mut impl ConnectionLike, replica: &str, age: Duration) -> RedisResult<()> {
    let key = keys::refresh_windows();
    pipe()
        .hset(&key, replica, duration_ms(age))
        .pexpire(&key, TTL_MS)
        .exec_async(conn)
        .await
}

/// Reads the age of each live replica of warm-syncer.
pub async fn announced(conn: &mut impl ConnectionLike) -> RedisResult<BTreeMap<String, Duration>> {
    let ages: BTreeMap<String, u64> = redis::cmd("HGETALL")
        .arg(keys::refresh_windows())
        .query_async(conn)
        .await?;
    let live = lease::members(conn, WARM_SYNCER).await?;
    let ages = ages.into_iter().filter(|(replica, _)| live.contains_key(replica));
    Ok(ages.map(|(replica, ms)| (replica, Duration::from_millis(ms))).collect())
}
