//! The number of partitions, which Redis holds for all workers and producers.

use anyhow::Context;
use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use super::position::{Position, positions};
use super::stream::{Stream, length};
use super::{functions, keys};
use crate::config::Misconfigured;
use crate::domain::partition::partition_of;
use crate::domain::symbol::Symbol;

/// An epoch after that of every owner.
const LAST_EPOCH: &str = "9007199254740992";

/// Reads the number of partitions; `None` before the first `aggregator-admin migrate`.
pub async fn stored(conn: &mut impl ConnectionLike) -> RedisResult<Option<u16>> {
    cmd("GET").arg(keys::partitions()).query_async(conn).await
}

/// Fails with [`Misconfigured`] if Redis does not hold `configured` as the number of partitions.
pub async fn ensure(conn: &mut impl ConnectionLike, configured: u16) -> anyhow::Result<()> {
    let stored = stored(conn)
        .await
        .context("reading the number of partitions from Redis")?;
    Ok(check(stored, configured)?)
}

/// Stores the number of partitions unless Redis holds one, and returns the number that Redis holds.
pub async fn store_once(conn: &mut impl ConnectionLike, partitions: u16) -> RedisResult<u16> {
    cmd("SETNX")
        .arg(keys::partitions())
        .arg(partitions)
        .query_async::<()>(conn)
        .await?;
    Ok(stored(conn).await?.unwrap_or(partitions))
}

/// Replaces the number of partitions `from` by `to`, moves the symbols with open candles to their new partitions, and
/// removes the streams of partitions that no longer exist. The caller must have checked that [`unfinished`] finds
/// nothing and that no hot-writer runs.
pub async fn replace(conn: &mut impl ConnectionLike, from: u16, to: u16) -> RedisResult<()> {
    // A symbol is added before it is removed, so a crash in between loses none; a repetition moves the rest.
    let mut since: Option<u64> = None;
    for partition in 0..from {
        let key = keys::complete_since(partition);
        since = since.max(cmd("GET").arg(key).query_async(conn).await?);
        move_open(conn, partition, to).await?;
    }
    // Every partition may now have symbols of every other one.
    for partition in 0..to {
        if let Some(since_ms) = since {
            let key = keys::complete_since(partition);
            cmd("SET").arg(key).arg(since_ms).query_async::<()>(conn).await?;
        }
    }
    cmd("SET")
        .arg(keys::partitions())
        .arg(to)
        .query_async::<()>(conn)
        .await?;
    for removed in to..from {
        for key in [
            Stream::Ticks(removed).key(),
            Stream::Candles(removed).key(),
            keys::open_symbols(removed),
            keys::complete_since(removed),
        ] {
            cmd("DEL").arg(key).query_async::<()>(conn).await?;
        }
    }
    Ok(())
}

/// Moves the symbols with open candles of `partition` to the partitions that they have with `to` partitions.
async fn move_open(conn: &mut impl ConnectionLike, partition: u16, to: u16) -> RedisResult<()> {
    let index = keys::open_symbols(partition);
    let names: Vec<String> = cmd("ZRANGE").arg(&index).arg(0).arg(-1).query_async(conn).await?;
    for symbol in names.iter().filter_map(|name| name.parse::<Symbol>().ok()) {
        let target = partition_of(&symbol, to);
        if target != partition {
            functions::mark_open(&keys::open_symbols(target), "0", [&symbol])
                .exec_async(conn)
                .await?;
            functions::mark_closed(&index, LAST_EPOCH, [&symbol])
                .exec_async(conn)
                .await?;
        }
    }
    Ok(())
}

/// Lists the obstacles to another number of partitions: entries that a group has not finished.
pub async fn unfinished(conn: &mut impl ConnectionLike, partitions: u16) -> RedisResult<Vec<String>> {
    let mut found = Vec::new();
    for partition in 0..partitions {
        for stream in Stream::of_partition(partition) {
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
    }
    Ok(found)
}

/// Returns the number of partitions that Redis holds, or fails if it holds none.
pub fn required(stored: Option<u16>) -> Result<u16, Misconfigured> {
    stored
        .filter(|stored| *stored > 0)
        .ok_or_else(|| Misconfigured::new("Redis holds no number of partitions; run `aggregator-admin migrate`"))
}

/// Fails if the number of partitions that Redis holds is not the configured one.
pub fn check(stored: Option<u16>, configured: u16) -> Result<(), Misconfigured> {
    let stored = required(stored)?;
    if stored == configured {
        return Ok(());
    }
    Err(Misconfigured::new(format!(
        "partitions is {stored} in Redis but {configured} in the configuration; use {stored}, or drain the streams and \
         run `aggregator-admin migrate --partitions {configured}`"
    )))
}
