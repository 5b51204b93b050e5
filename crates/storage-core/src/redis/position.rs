//! How far a consumer group has come.

use std::collections::HashMap;

use redis::aio::ConnectionLike;
use redis::{FromRedisValue, RedisResult, Value, cmd};

use super::reply;
use super::stream::Stream;
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
    /// How many entries have not been handed out; `None` where Redis can't tell. Redis counts what a group has read, and after a
    /// restart the count may lack some of it; 0 is exact.
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
/// # Errors
/// When Redis can't be asked.
pub async fn positions(conn: &mut impl ConnectionLike, stream: Stream) -> RedisResult<Vec<Position>> {
    // In this order: a group that is there afterwards had everything that was there before.
    let Some(mut whole) = info::<HashMap<String, Value>>(conn, "STREAM", stream).await? else {
        return Ok(Vec::new());
    };
    let last = reply::stream_id(whole.remove("last-generated-id").unwrap_or(Value::Nil))?;
    let groups: Option<Vec<HashMap<String, Value>>> = info(conn, "GROUPS", stream).await?;
    groups
        .into_iter()
        .flatten()
        .map(|fields| position(fields, last))
        .collect()
}

/// `XINFO`; `None` where the stream does not exist.
async fn info<T: FromRedisValue>(conn: &mut impl ConnectionLike, of: &str, stream: Stream) -> RedisResult<Option<T>> {
    match cmd("XINFO").arg(of).arg(stream.key()).query_async(conn).await {
        Ok(info) => Ok(Some(info)),
        Err(error) if error.to_string().contains("no such key") => Ok(None),
        Err(error) => Err(error),
    }
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

/// The position of a group of which `fields` are told, in a stream whose `last` entry ever had this ID.
fn position(mut fields: HashMap<String, Value>, last: StreamId) -> RedisResult<Position> {
    let mut take = |name: &str| fields.remove(name).unwrap_or(Value::Nil);
    let delivered = reply::stream_id(take("last-delivered-id"))?;
    let lag = Option::<u64>::from_redis_value(take("lag"))?;
    Ok(Position {
        group: String::from_redis_value(take("name"))?,
        delivered,
        pending: u64::from_redis_value(take("pending"))?,
        lag: if delivered >= last { Some(0) } else { lag },
    })
}
