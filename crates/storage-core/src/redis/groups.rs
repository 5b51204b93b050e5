//! Consumer groups: creating, resuming, listing and removing them.

use std::collections::HashMap;

use redis::aio::ConnectionLike;
use redis::{FromRedisValue, RedisResult, Value, cmd};

use super::functions;
use super::position::{Position, position_of, positions, removed_entries};
use super::stream::Stream;
use crate::domain::stream_id::StreamId;

/// Creates `group` on `stream`, at the oldest entry, unless it exists. Returns `true` if it was created. Entries that
/// were removed before count as read, so that they are not reported as lost.
pub async fn create(conn: &mut impl ConnectionLike, stream: Stream, group: &str) -> RedisResult<bool> {
    let removed = removed_entries(conn, stream).await?;
    let created: RedisResult<()> = cmd("XGROUP")
        .arg("CREATE")
        .arg(stream.key())
        .arg(group)
        .arg("0")
        .arg("MKSTREAM")
        .arg("ENTRIESREAD")
        .arg(removed)
        .query_async(conn)
        .await;
    match created {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some("BUSYGROUP") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Creates `group` again after it was lost, with a warning.
pub(super) async fn recreate(conn: &mut impl ConnectionLike, stream: Stream, group: &str) -> RedisResult<()> {
    if create(conn, stream, group).await? {
        tracing::warn!(%stream, group, "the consumer group was lost; created it again at the oldest entry");
    }
    Ok(())
}

/// Returns the position after which the single reader of `group` reads on. A group that was lost is created again. A
/// group with pending entries is reset to the oldest entry: its entries were delivered to consumers, as by earlier
/// versions.
pub async fn resume(conn: &mut impl ConnectionLike, stream: Stream, group: &str) -> RedisResult<StreamId> {
    match position_of(conn, stream, group).await? {
        Some(position) if position.pending == 0 => return Ok(position.delivered),
        Some(_) => {
            tracing::warn!(%stream, group, "the group has pending entries; reading again from the oldest entry");
            functions::reset_group(stream, group).exec_async(conn).await?;
        }
        None => recreate(conn, stream, group).await?,
    }
    Ok(StreamId::START)
}

/// Moves the position of `group` back to `to`. Redis no longer knows how many entries the group has read, until it has
/// read all.
pub async fn rewind(conn: &mut impl ConnectionLike, stream: Stream, group: &str, to: StreamId) -> RedisResult<()> {
    cmd("XGROUP")
        .arg("SETID")
        .arg(stream.key())
        .arg(group)
        .arg(to.to_string())
        .query_async(conn)
        .await
}

/// A consumer group, with the time since it was last active.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Stream that the group reads.
    pub stream: Stream,
    /// Position of the group in the stream.
    pub position: Position,
    /// Time since one of its consumers last asked for entries, in ms; before Redis 7.2 since one last got some. `None`
    /// if the group has no consumers.
    pub idle_ms: Option<u64>,
}

impl Group {
    /// Returns `true` if the group belongs to a worker of the pipeline.
    pub fn is_own(&self) -> bool {
        self.stream.groups().contains(&self.position.group.as_str())
    }
}

/// Lists the groups of `stream`.
pub async fn groups(conn: &mut impl ConnectionLike, stream: Stream) -> RedisResult<Vec<Group>> {
    let mut groups = Vec::new();
    for position in positions(conn, stream).await? {
        let consumers: Vec<HashMap<String, Value>> = cmd("XINFO")
            .arg("CONSUMERS")
            .arg(stream.key())
            .arg(&position.group)
            .query_async(conn)
            .await?;
        let idle = |mut consumer: HashMap<String, Value>| consumer.remove("idle").map(u64::from_redis_value);
        let idle: Result<Vec<u64>, _> = consumers.into_iter().filter_map(idle).collect();
        groups.push(Group {
            stream,
            position,
            idle_ms: idle?.into_iter().min(),
        });
    }
    Ok(groups)
}

/// Removes `group` from `stream`, so that its unfinished entries can be trimmed. Returns `true` if it existed.
pub async fn destroy(conn: &mut impl ConnectionLike, stream: Stream, group: &str) -> RedisResult<bool> {
    cmd("XGROUP")
        .arg("DESTROY")
        .arg(stream.key())
        .arg(group)
        .query_async(conn)
        .await
}
