//! How far a consumer group has come.

use std::collections::HashMap;

use redis::aio::ConnectionLike;
use redis::{FromRedisValue, RedisResult, Value, cmd};

use super::stream::{Stream, create_group};
use super::{functions, reply};
use crate::domain::stream_id::StreamId;

/// A consumer group's place in its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The group.
    pub group: String,
    /// The last entry that was handed to any consumer.
    pub delivered: StreamId,
    /// How many entries were handed out but not acknowledged.
    pub pending: u64,
    /// How many entries have not been handed out; `None` where Redis can't tell.
    pub lag: Option<u64>,
}

impl Position {
    /// Whether the group has read and acknowledged everything there is.
    pub fn has_finished(&self) -> bool {
        self.pending == 0 && self.lag == Some(0)
    }
}

/// The positions of all groups on `stream`; none where the stream does not exist.
///
/// The lag that Redis counts is not believed for a group that is at the stream's end: after a crash behind a rewrite of its
/// append-only file, Redis has forgotten what was read in between, and counts too much from then on.
///
/// # Errors
/// When Redis can't be asked.
pub async fn positions(conn: &mut impl ConnectionLike, stream: Stream) -> RedisResult<Vec<Position>> {
    let groups: Vec<HashMap<String, Value>> = match cmd("XINFO").arg("GROUPS").arg(stream.key()).query_async(conn).await
    {
        Ok(groups) => groups,
        Err(error) if error.to_string().contains("no such key") => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut positions: Vec<Position> = groups.into_iter().map(position).collect::<RedisResult<_>>()?;
    if positions.iter().any(|position| position.lag != Some(0)) {
        // Asked for later: whoever is there now has nothing before it.
        let end = end(conn, stream).await?;
        for position in positions.iter_mut().filter(|position| position.delivered >= end) {
            position.lag = Some(0);
        }
    }
    Ok(positions)
}

/// The last ID that `stream` gave to an entry.
async fn end(conn: &mut impl ConnectionLike, stream: Stream) -> RedisResult<StreamId> {
    reply::stream_id(
        about(conn, stream)
            .await?
            .remove("last-generated-id")
            .unwrap_or(Value::Nil),
    )
}

/// How many entries were removed from `stream`; none where it does not exist.
pub(super) async fn removed(conn: &mut impl ConnectionLike, stream: Stream) -> RedisResult<u64> {
    let mut fields = match about(conn, stream).await {
        Err(error) if error.to_string().contains("no such key") => return Ok(0),
        fields => fields?,
    };
    let mut number = |name: &str| u64::from_redis_value(fields.remove(name).unwrap_or(Value::Nil));
    Ok(number("entries-added")?.saturating_sub(number("length")?))
}

async fn about(conn: &mut impl ConnectionLike, stream: Stream) -> RedisResult<HashMap<String, Value>> {
    cmd("XINFO").arg("STREAM").arg(stream.key()).query_async(conn).await
}

/// The position of `group`, where it exists.
///
/// # Errors
/// When Redis can't be asked.
pub async fn position_of(conn: &mut impl ConnectionLike, stream: Stream, group: &str) -> RedisResult<Option<Position>> {
    Ok(positions(conn, stream)
        .await?
        .into_iter()
        .find(|position| position.group == group))
}

/// Where the one reader of `group` goes on, which has nothing pending: at the group's position. A group that was lost is created again
/// from the oldest entry kept. Where consumers had been handed entries, as those of earlier versions were, all that is kept is read again.
///
/// # Errors
/// When Redis can't be asked.
pub async fn resume(conn: &mut impl ConnectionLike, stream: Stream, group: &str) -> RedisResult<StreamId> {
    match position_of(conn, stream, group).await? {
        Some(position) if position.pending == 0 => Ok(position.delivered),
        Some(_) => {
            tracing::warn!(%stream, group, "entries were handed out and not finished; reading again all that is kept");
            functions::give_back(stream, group).exec_async(conn).await?;
            Ok(StreamId::START)
        }
        None => {
            if create_group(conn, stream, group).await? {
                tracing::warn!(%stream, group, "consumer group was lost; created it again from the oldest entry");
            }
            Ok(StreamId::START)
        }
    }
}

/// The first entry that the group of `position` may still need: its oldest pending one, or else whatever comes next.
///
/// # Errors
/// When Redis can't be asked.
pub async fn floor(conn: &mut impl ConnectionLike, stream: Stream, position: &Position) -> RedisResult<StreamId> {
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
