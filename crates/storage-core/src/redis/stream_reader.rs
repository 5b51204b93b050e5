//! Reading a stream by position, outside of any consumer group.

use std::time::Duration;

use redis::{RedisResult, cmd};

use super::entry_reader::EntryReader;
use super::lost::{LossDetector, Losses};
use super::stream::Stream;
use crate::config::redis::RedisConfig;
use crate::domain::entry::Entry;
use crate::domain::stream_id::StreamId;

/// Reads the entries of one stream in order.
pub struct StreamReader {
    reader: EntryReader,
    stream: Stream,
    position: StreamId,
    losses: Option<LossDetector>,
}

impl StreamReader {
    /// Creates a reader of the entries after `position`. `max_block` is the longest `block` of [`next`](Self::next).
    pub fn new(config: &RedisConfig, stream: Stream, position: StreamId, max_block: Duration) -> Self {
        Self {
            reader: EntryReader::new(config, stream, max_block),
            stream,
            position,
            losses: None,
        }
    }

    /// Reports entries that `group` lost. The reader must be the only one of the group, and start at its position.
    pub fn reporting_losses(mut self, config: &RedisConfig, group: &'static str, losses: Losses) -> Self {
        self.losses = Some(LossDetector::by_position(
            config,
            self.stream,
            group,
            self.position,
            losses,
        ));
        self
    }

    /// Reads the next entries, at most `count`, and waits up to `block` for the first. After an error, call it again.
    pub async fn next(&mut self, count: usize, block: Duration) -> RedisResult<Vec<Entry>> {
        if let Some(losses) = &mut self.losses {
            losses.check().await?;
        }
        let entries = self
            .reader
            .read(cmd("XREAD"), &self.position.to_string(), count, block)
            .await?;
        if let Some(last) = entries.last() {
            self.position = last.id;
            if let Some(losses) = &mut self.losses {
                losses.read(last.id, entries.len());
            }
        }
        Ok(entries)
    }
}
