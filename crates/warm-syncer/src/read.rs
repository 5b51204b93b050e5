//! Reads a stream in batches, limited by size and time.

use std::time::Duration;

use redis::RedisResult;
use storage_core::config::redis::RedisConfig;
use storage_core::domain::entry::Entry;
use storage_core::domain::stream_id::StreamId;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::redis::groups::resume;
use storage_core::redis::lost::Losses;
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use storage_core::redis::stream_reader::StreamReader;
use tokio::time::Instant;

/// Time for which a read waits for the first entry; it delays a shutdown.
const BLOCK: Duration = Duration::from_secs(1);

/// Maximum number of entries per command. Redis serves no other client while it answers, so a larger number would delay
/// hot-writer.
const MAX_COUNT: usize = 2_000;

/// Size of the fields of its entries from which a batch is complete.
const MAX_BATCH_BYTES: usize = 32 << 20;

/// Limits of a batch.
#[derive(Clone, Debug)]
pub(crate) struct BatchLimits {
    /// Maximum number of entries.
    pub(crate) rows: usize,
    /// Time for which a batch waits for more entries after the first ones.
    pub(crate) wait: Duration,
}

/// Reads a stream in batches, starting from the position of the group `warm-syncer`.
pub(crate) struct Reader {
    config: RedisConfig,
    conn: Connection,
    stream: Stream,
    limits: BatchLimits,
    losses: Losses,
    /// `None` before the first read and after a failed one.
    cursor: Option<Cursor>,
    /// The last entry that this process has finished.
    finished: StreamId,
}

struct Cursor {
    entries: StreamReader,
    /// The group's position: the last finished entry.
    finished: StreamId,
}

impl Reader {
    pub(crate) fn new(config: &RedisConfig, stream: Stream, limits: BatchLimits, losses: Losses) -> Self {
        Self {
            config: config.clone(),
            conn: Connection::ordinary(config),
            stream,
            limits,
            losses,
            cursor: None,
            finished: StreamId::START,
        }
    }

    /// Returns the position to start from, before the first batch and after an error.
    pub(crate) async fn start_position(&mut self) -> RedisResult<Option<StreamId>> {
        if self.cursor.is_some() {
            return Ok(None);
        }
        resume(&mut self.conn, self.stream, WARM_SYNCER).await.map(Some)
    }

    /// Returns the last entry that this process has finished.
    pub(crate) fn finished(&self) -> StreamId {
        self.finished
    }

    /// Starts again from the group's position.
    pub(crate) fn restart(&mut self) {
        self.cursor = None;
        self.finished = StreamId::START;
    }

    /// Starts after the entry `finished`, which is the group's position.
    pub(crate) fn start(&mut self, finished: StreamId) {
        let entries = StreamReader::new(&self.config, self.stream, finished, BLOCK.max(self.limits.wait));
        let entries = entries.reporting_losses(&self.config, WARM_SYNCER, self.losses.clone());
        self.cursor = Some(Cursor { entries, finished });
    }

    /// Reads the next batch; it is empty if no entry arrived. Reading must have been started.
    pub(crate) async fn batch(&mut self) -> RedisResult<Vec<Entry>> {
        let read = self.fill().await;
        if read.is_err() {
            // The entries of the incomplete batch are read again.
            self.cursor = None;
        }
        read
    }

    async fn fill(&mut self) -> RedisResult<Vec<Entry>> {
        let Some(cursor) = &mut self.cursor else {
            return Ok(Vec::new());
        };
        let mut batch = cursor.entries.next(self.limits.rows.min(MAX_COUNT), BLOCK).await?;
        if batch.is_empty() {
            let at = resume(&mut self.conn, self.stream, WARM_SYNCER).await?;
            self.follow_position(at);
            return Ok(batch);
        }
        let deadline = Instant::now() + self.limits.wait;
        let mut bytes = size_bytes(&batch);
        while batch.len() < self.limits.rows && bytes < MAX_BATCH_BYTES {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let count = MAX_COUNT.min(self.limits.rows - batch.len());
            let more = cursor.entries.next(count, left).await?;
            bytes += size_bytes(&more);
            batch.extend(more);
        }
        Ok(batch)
    }

    /// Moves the position past a batch of `count` entries that ends with `last`. After an error the next answer may
    /// come from another server, which lacks some of the entries; then reading starts again from its position.
    pub(crate) async fn finish(&mut self, count: usize, last: StreamId) -> RedisResult<()> {
        let Some(mut cursor) = self.cursor.take() else {
            return Ok(());
        };
        let at = functions::advance(&mut self.conn, self.stream, WARM_SYNCER, cursor.finished, last, count).await?;
        cursor.finished = last;
        if at == last {
            self.finished = last;
        }
        self.cursor = Some(cursor);
        self.follow_position(at);
        Ok(())
    }

    /// Starts again from `at` if another replica or an operator has moved the position.
    fn follow_position(&mut self, at: StreamId) {
        if self.cursor.as_ref().is_some_and(|cursor| cursor.finished != at) {
            tracing::warn!(stream = %self.stream, %at, "another client moved the group's position; resuming there");
            self.cursor = None;
        }
    }
}

fn size_bytes(entries: &[Entry]) -> usize {
    entries.iter().map(Entry::size_bytes).sum()
}
