//! Read: the next batch of a stream, cut by size and by time.

use std::time::Duration;

use redis::RedisResult;
use storage_core::config::redis::RedisConfig;
use storage_core::domain::entry::Entry;
use storage_core::domain::stream_id::StreamId;
use storage_core::redis::group_reader::{GroupReader, GroupReaderOptions};
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use tokio::time::Instant;

use crate::metrics;

/// How long to wait for the first entry; a shutdown waits as long.
const BLOCK: Duration = Duration::from_secs(1);

/// The most entries that are asked for, or acknowledged, at once: while Redis answers, nobody else is served, and the hot
/// path would wait.
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

/// Reads a stream batch by batch as a member of the group `warm-syncer`.
pub(crate) struct Reader {
    group: GroupReader,
    cut: Cut,
}

impl Reader {
    pub(crate) fn new(redis: &RedisConfig, stream: Stream, consumer: String, claim_after: Duration, cut: Cut) -> Self {
        let block = BLOCK.max(cut.wait);
        let options = GroupReaderOptions {
            group: WARM_SYNCER,
            consumer,
            batch: cut.rows.min(PORTION),
            block,
            claim_after,
            lost: &metrics::LOST_ENTRIES,
        };
        Self {
            group: GroupReader::new(redis, stream, options),
            cut,
        }
    }

    /// The next batch; empty when nothing came for a while.
    pub(crate) async fn batch(&mut self) -> RedisResult<Vec<Entry>> {
        let read = self.fill().await;
        if read.is_err() {
            // What Redis handed out in an answer that never came is in the own backlog.
            self.group.start_over();
        }
        read
    }

    async fn fill(&mut self) -> RedisResult<Vec<Entry>> {
        let mut batch = self.group.read().await?;
        if batch.is_empty() {
            return Ok(batch);
        }
        let deadline = Instant::now() + self.cut.wait;
        let mut bytes = size_bytes(&batch);
        while !self.group.has_backlog() && batch.len() < self.cut.rows && bytes < MAX_BATCH_BYTES {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let count = PORTION.min(self.cut.rows - batch.len());
            let more = self.group.read_more(count, left).await?;
            bytes += size_bytes(&more);
            batch.extend(more);
        }
        Ok(batch)
    }

    /// Marks entries as done with.
    pub(crate) async fn acknowledge(&mut self, ids: &[StreamId]) -> RedisResult<()> {
        for some in ids.chunks(PORTION) {
            self.group.acknowledge(some).await?;
        }
        Ok(())
    }
}

fn size_bytes(entries: &[Entry]) -> usize {
    let fields = entries.iter().flat_map(Entry::fields);
    fields.map(|(name, value)| name.len() + value.len()).sum()
}
