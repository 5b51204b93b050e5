//! The clock of Redis, by which entries get their IDs and leases end.

use std::time::UNIX_EPOCH;

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use crate::domain::time::duration_ms;

/// Returns the time by the clock of this machine, in ms since 1970.
pub fn local_ms() -> u64 {
    duration_ms(UNIX_EPOCH.elapsed().unwrap_or_default())
}

/// Reads the time, in ms since 1970.
pub async fn now_ms(conn: &mut impl ConnectionLike) -> RedisResult<u64> {
    let (seconds, micros): (u64, u64) = cmd("TIME").query_async(conn).await?;
    Ok(seconds * 1_000 + micros / 1_000)
}
