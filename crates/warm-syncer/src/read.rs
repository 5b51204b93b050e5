//! Read: the next batch of a stream, cut by size and by time.

use std::time::Duration;

use redis::RedisResult;
use storage_core::config::redis::RedisConfig;
use storage_core::domain::entry::Entry;
use storage_core::domain::stream_id::StreamId;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::redis::lost::Losses;
use storage_core::redis::position::resume;
use storage_core::redis::stream::{Stream, StreamReader, WARM_SYNCER};
use tokio::time::Instant;

/// How long to wait for the first entry; a shutdown waits as long.
const BLOCK: Duration = Duration::from_secs(1);

/// The most entries that are asked for at once: while Redis answers, nobody else is served, and the hot path would wait.
const PORTION: usize = 2_000;

/// A batch is cut once its entries' fields take so much.
const MAX_BATCH_BYTES: usize = 32 << 20;

/// How a reader cuts its batches.
#[derive(Clone, Debug)]
pub(crate) struct Cut {
    /// The most entries in a batch.
    pub(crate) rows: usize,
    /// How long a batch that has begun waits for more.
    pub(crate) wait: Duration,
}

/// Reads a stream batch by batch, from the position of the group `warm-syncer` on.
pub(crate) struct Reader {
    config: RedisConfig,
    conn: Connection,
    stream: Stream,
    cut: Cut,
    losses: Losses,
    /// Where it reads; none before the first read, and after one that failed.
    place: Option<Place>,
    /// The last entry that it has finished.
    finished: StreamId,
}

struct Place {
    entries: StreamReader,
    /// The group's position: the last entry that is done with.
    finished: StreamId,
}

impl Reader {
    pub(crate) fn new(config: &RedisConfig, stream: Stream, cut: Cut, losses: Losses) -> Self {
        Self {
            config: config.clone(),
            conn: Connection::ordinary(config),
            stream,
            cut,
            losses,
            place: None,
            finished: StreamId::START,
        }
    }

    /// Where reading has to begin, if it must: before the first batch, and after an error.
    pub(crate) async fn beginning(&mut self) -> RedisResult<Option<StreamId>> {
        if self.place.is_some() {
            return Ok(None);
        }
        resume(&mut self.conn, self.stream, WARM_SYNCER).await.map(Some)
    }

    /// The last entry that it has finished, if any.
    pub(crate) fn finished(&self) -> StreamId {
        self.finished
    }

    /// Begins after the entry `finished`, which is the group's position.
    pub(crate) fn begin(&mut self, finished: StreamId) {
        let entries = StreamReader::new(&self.config, self.stream, finished, BLOCK.max(self.cut.wait));
        let entries = entries.watching(&self.config, WARM_SYNCER, self.losses.clone());
        self.place = Some(Place { entries, finished });
    }

    /// The next batch after it has begun; empty when nothing came for a while.
    pub(crate) async fn batch(&mut self) -> RedisResult<Vec<Entry>> {
        let read = self.fill().await;
        if read.is_err() {
            // What had come in before is read again.
            self.place = None;
        }
        read
    }

    async fn fill(&mut self) -> RedisResult<Vec<Entry>> {
        let Some(place) = &mut self.place else {
            return Ok(Vec::new());
        };
        let mut batch = place.entries.next(self.cut.rows.min(PORTION), BLOCK).await?;
        if batch.is_empty() {
            let at = resume(&mut self.conn, self.stream, WARM_SYNCER).await?;
            self.go_on_from(at);
            return Ok(batch);
        }
        let deadline = Instant::now() + self.cut.wait;
        let mut bytes = size_bytes(&batch);
        while batch.len() < self.cut.rows && bytes < MAX_BATCH_BYTES {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let count = PORTION.min(self.cut.rows - batch.len());
            let more = place.entries.next(count, left).await?;
            bytes += size_bytes(&more);
            batch.extend(more);
        }
        Ok(batch)
    }

    /// Moves the position over a batch of `count` entries that ends with `last`. After an error the server that answers next may be
    /// another one, which lacks some of them: then reading begins anew from the position that it knows.
    pub(crate) async fn finish(&mut self, count: usize, last: StreamId) -> RedisResult<()> {
        let Some(mut place) = self.place.take() else {
            return Ok(());
        };
        let at = functions::advance(&mut self.conn, self.stream, WARM_SYNCER, place.finished, last, count).await?;
        place.finished = last;
        if at == last {
            self.finished = last;
        }
        self.place = Some(place);
        self.go_on_from(at);
        Ok(())
    }

    /// Begins anew where somebody else has moved the position: another copy, or an operator who wants entries read again.
    fn go_on_from(&mut self, at: StreamId) {
        if self.place.as_ref().is_some_and(|place| place.finished != at) {
            tracing::warn!(stream = %self.stream, %at, "the group's position was moved; going on from there");
            self.place = None;
        }
    }
}

fn size_bytes(entries: &[Entry]) -> usize {
    let fields = entries.iter().flat_map(Entry::fields);
    fields.map(|(name, value)| name.len() + value.len()).sum()
}
