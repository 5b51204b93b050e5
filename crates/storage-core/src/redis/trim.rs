//! Trimming: what every group has finished, and is older than the retention, may go. Never by length.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use super::position::{floor, positions};
use super::stream::Stream;
use crate::domain::stream_id::StreamId;

/// Trims `stream` up to the oldest entry that a group still needs or that is younger than `retention`.
/// Returns how many entries went. A stream that lacks one of its groups is left alone: that group has read nothing yet.
///
/// # Errors
/// When Redis can't be asked.
pub async fn trim(conn: &mut impl ConnectionLike, stream: Stream, retention: Duration) -> RedisResult<u64> {
    let positions = positions(conn, stream).await?;
    let complete = stream
        .groups()
        .iter()
        .all(|group| positions.iter().any(|position| position.group == *group));
    if !complete {
        return Ok(0);
    }
    let retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
    let mut keep_from = StreamId::at_ms(now_ms(conn).await?.saturating_sub(retention_ms));
    for position in &positions {
        keep_from = keep_from.min(floor(conn, stream, position).await?);
    }
    cmd("XTRIM")
        .arg(stream.key())
        .arg("MINID")
        .arg("~")
        .arg(keep_from.to_string())
        .query_async(conn)
        .await
}

/// The clock of Redis in ms since 1970.
///
/// # Errors
/// When Redis can't be asked.
pub async fn now_ms(conn: &mut impl ConnectionLike) -> RedisResult<u64> {
    let (seconds, micros): (u64, u64) = cmd("TIME").query_async(conn).await?;
    Ok(seconds * 1_000 + micros / 1_000)
}
