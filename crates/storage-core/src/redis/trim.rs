//! Trimming of entries that every group has finished and that are older than the retention. A stream is never trimmed
//! by length.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use super::clock::now_ms;
use super::position::{first_unfinished, positions};
use super::stream::Stream;
use crate::domain::stream_id::StreamId;
use crate::domain::tick_rules::is_of_the_future;
use crate::domain::time::duration_ms;

/// Ends of a stream whose IDs are ahead of the clock, each with the time at which it was seen.
///
/// The age of such entries can't be computed from their IDs, which a client has chosen: Redis goes on from there.
#[derive(Debug, Default)]
pub struct FutureEnds(VecDeque<(Instant, StreamId)>);

impl FutureEnds {
    /// Adds the end of the stream at time `now`, and returns the last end that was seen `retention` ago.
    fn passed(&mut self, end: StreamId, now: Instant, retention: Duration) -> Option<StreamId> {
        self.0.push_back((now, end));
        let is_old = |(seen, _): &(Instant, StreamId)| now.duration_since(*seen) >= retention;
        let old = self.0.partition_point(is_old);
        // The last old one answers for the next call, too.
        self.0.drain(..old.saturating_sub(1));
        self.0.front().filter(|seen| is_old(seen)).map(|(_, end)| *end)
    }
}

/// Trims `stream` up to the oldest entry that a group has not finished or that is younger than `retention`, and returns
/// the number of entries removed. A stream without one of its groups is not trimmed: that group has read nothing yet.
/// `ends` belongs to this stream and is kept for the next call.
pub async fn trim(
    conn: &mut impl ConnectionLike,
    stream: Stream,
    retention: Duration,
    ends: &mut FutureEnds,
) -> RedisResult<u64> {
    let positions = positions(conn, stream).await?;
    let has_all_groups = stream
        .groups()
        .iter()
        .all(|group| positions.iter().any(|position| position.group == *group));
    if !has_all_groups {
        return Ok(0);
    }
    let now_ms = now_ms(conn).await?;
    let mut keep_from = StreamId::at_ms(now_ms.saturating_sub(duration_ms(retention)));
    let delivered = positions.iter().map(|position| position.delivered).max();
    if let Some(end) = delivered.filter(|end| is_of_the_future(*end, now_ms)) {
        let passed = ends.passed(end, Instant::now(), retention);
        keep_from = passed.map_or(keep_from, StreamId::next);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_the_future_is_passed_after_the_retention() {
        let (begin, retention) = (Instant::now(), Duration::from_secs(60));
        let mut ends = FutureEnds::default();
        let mut passed = |seconds: u64, ms: u64| {
            let now = begin + Duration::from_secs(seconds);
            ends.passed(StreamId::at_ms(ms), now, retention).map(|id| id.ms)
        };
        assert_eq!(passed(0, 10), None);
        assert_eq!(passed(30, 20), None);
        assert_eq!(passed(60, 30), Some(10));
        assert_eq!(passed(61, 30), Some(10));
        assert_eq!(passed(95, 40), Some(20));
        assert_eq!(passed(300, 50), Some(40));
    }
}
