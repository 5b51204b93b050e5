//! Positions of consumer groups in their streams.

use std::collections::HashMap;

use redis::aio::ConnectionLike;
use redis::{FromRedisValue, RedisResult, Value, cmd};

use super::reply;
use super::stream::Stream;
use crate::domain::stream_id::StreamId;

/// Position of a consumer group in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// Name of the group.
    pub group: String,
    /// Last entry that was delivered to a consumer of the group.
    pub delivered: StreamId,
    /// Number of entries that were delivered but not acknowledged.
    pub pending: u64,
    /// Number of entries that were not delivered yet; `None` if Redis does not know it.
    pub lag: Option<u64>,
}

impl Position {
    /// Returns `true` if the group has read and acknowledged every entry of the stream.
    pub fn has_finished(&self) -> bool {
        self.pending == 0 && self.lag == Some(0)
    }
}

/// Reads the positions of all groups of `stream`. A stream that does not exist has none.
///
/// The lag that Redis reports is ignored for a group at the end of the stream: a crash after a rewrite of the
/// append-only file makes Redis forget how many entries the group had read, and it reports too high a lag from then on.
pub async fn positions(conn: &mut impl ConnectionLike, stream: Stream) -> RedisResult<Vec<Position>> {
    let groups: Vec<HashMap<String, Value>> = match cmd("XINFO").arg("GROUPS").arg(stream.key()).query_async(conn).await
    {
        Ok(groups) => groups,
        Err(error) if error.to_string().contains("no such key") => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut positions: Vec<Position> = groups.into_iter().map(position).collect::<RedisResult<_>>()?;
    if positions.iter().any(|position| position.lag != Some(0)) {
        // The end is read after the positions, so a group that has reached it has nothing before it left to read.
        let end = info(conn, stream).await?.remove("last-generated-id");
        let end = reply::stream_id(end.unwrap_or(Value::Nil))?;
        for position in positions.iter_mut().filter(|position| position.delivered >= end) {
            position.lag = Some(0);
        }
    }
    Ok(positions)
}

/// Reads how many entries were removed from `stream`; 0 for a stream that does not exist.
pub(super) async fn removed_entries(conn: &mut impl ConnectionLike, stream: Stream) -> RedisResult<u64> {
    let mut fields = match info(conn, stream).await {
        Err(error) if error.to_string().contains("no such key") => return Ok(0),
        fields => fields?,
    };
    let mut number = |name: &str| u64::from_redis_value(fields.remove(name).unwrap_or(Value::Nil));
    Ok(number("entries-added")?.saturating_sub(number("length")?))
}

/// Returns the ID of the last entry that was added to `stream`, which may have been removed since.
pub async fn last_added(conn: &mut impl ConnectionLike, stream: Stream) -> RedisResult<StreamId> {
    match info(conn, stream).await {
        Err(error) if error.to_string().contains("no such key") => Ok(StreamId::START),
        fields => reply::stream_id(fields?.remove("last-generated-id").unwrap_or(Value::Nil)),
    }
}

pub(super) async fn info(conn: &mut impl ConnectionLike, stream: Stream) -> RedisResult<HashMap<String, Value>> {
    cmd("XINFO").arg("STREAM").arg(stream.key()).query_async(conn).await
}

/// Reads the position of `group`; `None` if the group does not exist.
pub async fn position_of(conn: &mut impl ConnectionLike, stream: Stream, group: &str) -> RedisResult<Option<Position>> {
    Ok(positions(conn, stream)
        .await?
        .into_iter()
        .find(|position| position.group == group))
}

/// Reads the first entry that the group at `position` has not finished: its oldest pending entry, or else the next one
/// to be delivered.
pub async fn first_unfinished(
    conn: &mut impl ConnectionLike,
    stream: Stream,
    position: &Position,
) -> RedisResult<StreamId> {
    if position.pending == 0 {
        return Ok(position.delivered.next());
    }
    let summary: Vec<Value> = cmd("XPENDING")
        .arg(stream.key())
        .arg(&position.group)
        .query_async(conn)
        .await?;
    match summary.into_iter().nth(1) {
        Some(Value::Nil) | None => Ok(position.delivered.next()),
        Some(oldest) => reply::stream_id(oldest),
    }
}

fn position(mut fields: HashMap<String, Value>) -> RedisResult<Position> {
    let mut take = |name: &str| fields.remove(name).unwrap_or(Value::Nil);
    Ok(Position {
        group: String::from_redis_value(take("name"))?,
        delivered: reply::stream_id(take("last-delivered-id"))?,
        pending: u64::from_redis_value(take("pending"))?,
        lag: Option::<u64>::from_redis_value(take("lag"))?,
    })
}
