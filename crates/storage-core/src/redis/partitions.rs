//! The number of partitions: stored once, the same for everybody.

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use super::keys;
use crate::config::Misconfigured;

/// The number of partitions that Redis holds; `None` before the first `aggregator-admin migrate`.
///
/// # Errors
/// When Redis can't be asked.
pub async fn stored(conn: &mut impl ConnectionLike) -> RedisResult<Option<u16>> {
    cmd("GET").arg(keys::partitions()).query_async(conn).await
}

/// Stores the number of partitions unless there is one, and returns the one that counts.
///
/// # Errors
/// When Redis can't be asked.
pub async fn store_once(conn: &mut impl ConnectionLike, partitions: u16) -> RedisResult<u16> {
    cmd("SETNX").arg(keys::partitions()).arg(partitions).query_async::<()>(conn).await?;
    Ok(stored(conn).await?.unwrap_or(partitions))
}

/// Stores another number of partitions. The caller has seen that every partitioned stream is drained.
///
/// # Errors
/// When Redis can't be asked.
pub async fn replace(conn: &mut impl ConnectionLike, partitions: u16) -> RedisResult<()> {
    cmd("SET").arg(keys::partitions()).arg(partitions).query_async(conn).await
}

/// Says what is wrong when the configuration and Redis disagree about the number of partitions.
///
/// # Errors
/// When they disagree, or Redis holds none.
pub fn check(stored: Option<u16>, configured: u16) -> Result<(), Misconfigured> {
    match stored {
        Some(stored) if stored == configured => Ok(()),
        Some(stored) => Err(Misconfigured::new(format!(
            "partitions is {stored} in Redis but {configured} in the configuration; use {stored}, or drain the streams and run \
             `aggregator-admin migrate --partitions {configured}`"
        ))),
        None => Err(Misconfigured::new("Redis holds no number of partitions; run `aggregator-admin migrate`")),
    }
}
