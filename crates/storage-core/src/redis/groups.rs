//! Consumer groups as an operator looks at them: the pipeline's own, and others' that keep entries from being trimmed.

use std::collections::HashMap;

use redis::aio::ConnectionLike;
use redis::{FromRedisValue, RedisResult, Value, cmd};

use super::position::{Position, positions};
use super::stream::Stream;

/// A consumer group, and when it was heard of last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The stream that it reads.
    pub stream: Stream,
    /// How far it is.
    pub position: Position,
    /// Time since one of its consumers last asked for entries, before Redis 7.2 since it last got some, in ms; `None` where it
    /// has no consumers.
    pub idle_ms: Option<u64>,
}

impl Group {
    /// Whether a worker of the pipeline reads as this group.
    pub fn is_own(&self) -> bool {
        self.stream.groups().contains(&self.position.group.as_str())
    }
}

/// The groups of `stream`.
///
/// # Errors
/// When Redis can't be asked.
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

/// Removes `group` of `stream`, and what it has not finished is no reason to keep entries any more. Says whether there was one.
///
/// # Errors
/// When Redis can't be asked.
pub async fn destroy(conn: &mut impl ConnectionLike, stream: Stream, group: &str) -> RedisResult<bool> {
    cmd("XGROUP")
        .arg("DESTROY")
        .arg(stream.key())
        .arg(group)
        .query_async(conn)
        .await
}
