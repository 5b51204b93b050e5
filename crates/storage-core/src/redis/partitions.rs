//! The number of partitions: stored once, the same for everybody.

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use super::keys;
use super::position::{Position, positions};
use super::stream::{Stream, length};
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
    cmd("SETNX")
        .arg(keys::partitions())
        .arg(partitions)
        .query_async::<()>(conn)
        .await?;
    Ok(stored(conn).await?.unwrap_or(partitions))
}

/// Stores another number of partitions, and removes the streams of those that are no more. The caller has seen that
/// [`unfinished`] finds nothing.
///
/// # Errors
/// When Redis can't be asked.
pub async fn replace(conn: &mut impl ConnectionLike, from: u16, to: u16) -> RedisResult<()> {
    cmd("SET")
        .arg(keys::partitions())
        .arg(to)
        .query_async::<()>(conn)
        .await?;
    for gone in to..from {
        for key in [
            Stream::Ticks(gone).key(),
            Stream::Candles(gone).key(),
            keys::open_symbols(gone),
            keys::complete_since(gone),
        ] {
            cmd("DEL").arg(key).query_async::<()>(conn).await?;
        }
    }
    Ok(())
}

/// What stands in the way of another number of partitions: entries that a group has not finished, candles that are not
/// closed.
///
/// # Errors
/// When Redis can't be asked.
pub async fn unfinished(conn: &mut impl ConnectionLike, partitions: u16) -> RedisResult<Vec<String>> {
    let mut found = Vec::new();
    for partition in 0..partitions {
        for stream in [Stream::Ticks(partition), Stream::Candles(partition)] {
            let length = length(conn, stream).await?;
            if length == 0 {
                continue;
            }
            let positions = positions(conn, stream).await?;
            for group in stream.groups() {
                let position = positions.iter().find(|position| position.group == *group);
                if !position.is_some_and(Position::has_finished) {
                    found.push(format!("{group} has not finished {}", stream.key()));
                }
            }
        }
        let open: u64 = cmd("ZCARD")
            .arg(keys::open_symbols(partition))
            .query_async(conn)
            .await?;
        if open > 0 {
            found.push(format!(
                "{open} symbols of partition {partition} have candles in the making"
            ));
        }
    }
    Ok(found)
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
        None => Err(Misconfigured::new(
            "Redis holds no number of partitions; run `aggregator-admin migrate`",
        )),
    }
}
