//! Waits until the workers have processed what the streams contain.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context;
use storage_core::domain::stream_id::StreamId;
use storage_core::redis::connection::Connection;
use storage_core::redis::position::{first_unfinished, last_added, positions};
use storage_core::redis::stream::Stream;
use tokio::time::{Instant, sleep};

const PAUSE: Duration = Duration::from_millis(50);

/// Streams that the workers have not processed in time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unfinished {
    /// Partitions with ticks or candles that the history may lack.
    pub(crate) partitions: BTreeSet<u16>,
    /// `true` if requested minutes are not computed.
    pub(crate) repairs: bool,
    /// `true` if announced ranges are not refreshed.
    pub(crate) rollups: bool,
}

/// Waits for at most `patience` until every group has finished the entries that its stream contains. Entries cause
/// others, so the streams follow each other in the order of the flow.
pub(crate) async fn settle(redis: &mut Connection, partitions: u16, patience: Duration) -> anyhow::Result<Unfinished> {
    let deadline = Instant::now() + patience;
    let mut unfinished = Unfinished::default();
    let ticks: Vec<Stream> = (0..partitions).map(Stream::Ticks).collect();
    let mut closed: Vec<Stream> = (0..partitions).map(Stream::Candles).collect();
    closed.push(Stream::Repairs);
    for streams in [ticks, closed, vec![Stream::Rollups]] {
        for stream in await_end(redis, &streams, deadline).await? {
            match stream {
                Stream::Ticks(partition) | Stream::Candles(partition) => {
                    unfinished.partitions.insert(partition);
                }
                Stream::Repairs => unfinished.repairs = true,
                _ => unfinished.rollups = true,
            }
        }
    }
    Ok(unfinished)
}

/// Waits until every group of `streams` has finished the entries that exist now, and returns the streams with a group
/// that has not.
async fn await_end(redis: &mut Connection, streams: &[Stream], deadline: Instant) -> anyhow::Result<Vec<Stream>> {
    let doing = "reading the positions of the groups";
    let mut waiting = Vec::new();
    for stream in streams {
        waiting.push((*stream, last_added(redis, *stream).await.context(doing)?));
    }
    loop {
        let mut unfinished = Vec::new();
        for (stream, end) in waiting {
            if !has_finished(redis, stream, end).await.context(doing)? {
                unfinished.push((stream, end));
            }
        }
        if unfinished.is_empty() || Instant::now() >= deadline {
            return Ok(unfinished.into_iter().map(|(stream, _)| stream).collect());
        }
        waiting = unfinished;
        sleep(PAUSE).await;
    }
}

async fn has_finished(redis: &mut Connection, stream: Stream, end: StreamId) -> redis::RedisResult<bool> {
    for position in positions(redis, stream).await? {
        if stream.groups().contains(&position.group.as_str())
            && !position.has_finished()
            && first_unfinished(redis, stream, &position).await? <= end
        {
            return Ok(false);
        }
    }
    Ok(true)
}
