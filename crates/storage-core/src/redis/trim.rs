//! Trimming of entries that every group has finished and that are older than the retention. A stream is never trimmed
//! by length.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use super::clock::now_ms;
use super::position::{first_unfinished, positions};
use super::stream::Stream;
use crate::domain::stream_id::StreamId;
use crate::domain::time::duration_ms;

/// Trims `stream` up to the oldest entry that a group has not finished or that is younger than `retention`, and returns
/// the number of entries removed. A stream without one of its groups is not trimmed: that group has read nothing yet.
pub async fn trim(conn: &mut impl ConnectionLike, stream: Stream, retention: Duration) -> RedisResult<u64> {
    let positions = positions(conn, stream).await?;
    let has_all_groups = stream
        .groups()
        .iter()
        .all(|group| positions.iter().any(|position| position.group == *group));
    if !has_all_groups {
        return Ok(0);
    }
    let mut keep_from = StreamId::at_ms(now_ms(conn).await?.saturating_sub(duration_ms(retention)));
    for position in &positions {
        keep_from = keep_from.min(first_unfinished(conn, stream, position).await?);
    }
    cmd("XTRIM")
        .arg(stream.key())
        .arg("MINID")
        .arg("~")
        .arg(keep_from.to_string())
        .query_async(conn)
        .await
}
