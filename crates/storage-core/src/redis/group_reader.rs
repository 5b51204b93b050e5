//! Reading a stream as a consumer of a group, so that every entry is delivered until it is acknowledged.
//!
//! A reader first reads its own pending entries, left from before a restart. It periodically claims entries that
//! another consumer has left pending, and otherwise waits for new entries. A group that was lost is created again at
//! the oldest entry. Idle consumers without pending entries are removed from the group. Pending entries that were
//! deleted from the stream are counted as lost and logged as errors.

use std::time::{Duration, Instant};

use redis::{RedisResult, Value, cmd};

use super::connection::Connection;
use super::entry_reader::EntryReader;
use super::lost::{LossDetector, Losses, LostEntries};
use super::stream::Stream;
use super::{functions, groups, reply};
use crate::config::redis::RedisConfig;
use crate::domain::entry::Entry;
use crate::domain::stream_id::StreamId;
use crate::domain::time::duration_ms;

/// Idle time after which a consumer is removed, as a multiple of `claim_after`.
const REMOVE_AFTER: u32 = 10;

/// Options of a [`GroupReader`].
#[derive(Clone, Debug)]
pub struct GroupReaderOptions {
    /// Consumer group.
    pub group: &'static str,
    /// Name of this consumer. It must not change with a restart, so that the reader finds its pending entries.
    pub consumer: String,
    /// Largest number of entries in a batch.
    pub batch: usize,
    /// Time to wait for new entries.
    pub block: Duration,
    /// Idle time after which pending entries of other consumers are claimed.
    pub claim_after: Duration,
    /// Receives the number of entries that were deleted before they were acknowledged.
    pub losses: Losses,
}

/// A consumer of a group.
pub struct GroupReader {
    entries: EntryReader,
    detector: LossDetector,
    conn: Connection,
    stream: Stream,
    options: GroupReaderOptions,
    /// Last pending entry of this consumer that was read; `None` after all were read.
    pending: Option<StreamId>,
    claim_cursor: StreamId,
    next_claim: Instant,
}

impl GroupReader {
    /// Creates a reader with its own connections.
    pub fn new(config: &RedisConfig, stream: Stream, options: GroupReaderOptions) -> Self {
        Self {
            entries: EntryReader::new(config, stream, options.block),
            detector: LossDetector::of_delivering_group(config, stream, options.group, options.losses.clone()),
            conn: Connection::ordinary(config),
            stream,
            options,
            pending: Some(StreamId::START),
            claim_cursor: StreamId::START,
            next_claim: Instant::now(),
        }
    }

    /// Returns the stream of the reader.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// Reads the next batch; empty if no entry arrived within `block`. After an error, call it again.
    pub async fn read(&mut self) -> RedisResult<Vec<Entry>> {
        match self.read_next().await {
            Err(error) if error.code() == Some("NOGROUP") => {
                groups::recreate(&mut self.conn, self.stream, self.options.group).await?;
                self.pending = Some(StreamId::START);
                Ok(Vec::new())
            }
            result => result,
        }
    }

    /// Reads up to `count` new entries to fill a batch of [`read`](Self::read). Waits up to `block`, which must not
    /// exceed that of the options. After an error, call it again.
    pub async fn read_more(&mut self, count: usize, block: Duration) -> RedisResult<Vec<Entry>> {
        self.read_group(">", count, block).await
    }

    /// Acknowledges entries. After an error they are delivered again.
    pub async fn acknowledge(&mut self, ids: &[StreamId]) -> RedisResult<()> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut command = cmd("XACK");
        command.arg(self.stream.key()).arg(self.options.group);
        for id in ids {
            command.arg(id.to_string());
        }
        command.query_async(&mut self.conn).await
    }

    async fn read_next(&mut self) -> RedisResult<Vec<Entry>> {
        self.detector.check().await?;
        if let Some(after) = self.pending {
            let entries = self
                .read_group(&after.to_string(), self.options.batch, self.options.block)
                .await?;
            self.pending = entries.last().map(|entry| entry.id);
            if !entries.is_empty() {
                return self.without_deleted(entries).await;
            }
        }
        if self.next_claim <= Instant::now() {
            let claimed = self.claim().await?;
            if !claimed.is_empty() {
                return Ok(claimed);
            }
        }
        self.read_group(">", self.options.batch, self.options.block).await
    }

    async fn read_group(&mut self, after: &str, count: usize, block: Duration) -> RedisResult<Vec<Entry>> {
        let mut command = cmd("XREADGROUP");
        command.arg("GROUP").arg(self.options.group).arg(&self.options.consumer);
        self.entries.read(command, after, count, block).await
    }

    /// Claims a batch of entries that other consumers have left pending. At the end of the list it schedules the next
    /// pass.
    async fn claim(&mut self) -> RedisResult<Vec<Entry>> {
        let reply: Value = cmd("XAUTOCLAIM")
            .arg(self.stream.key())
            .arg(self.options.group)
            .arg(&self.options.consumer)
            .arg(duration_ms(self.options.claim_after))
            .arg(self.claim_cursor.to_string())
            .arg("COUNT")
            .arg(self.options.batch)
            .query_async(&mut self.conn)
            .await?;
        let mut parts = reply::array(reply)?.into_iter();
        self.claim_cursor = reply::stream_id(parts.next().unwrap_or(Value::Nil))?;
        let entries = reply::entries(parts.next().unwrap_or(Value::Nil))?;
        // XAUTOCLAIM has removed them from the pending entries.
        let deleted = reply::array(parts.next().unwrap_or(Value::Array(Vec::new())))?;
        let deleted = deleted.into_iter().map(reply::stream_id);
        self.report_lost(&deleted.collect::<RedisResult<Vec<_>>>()?).await;
        if self.claim_cursor == StreamId::START {
            self.next_claim = Instant::now() + self.options.claim_after;
            self.remove_idle_consumers().await;
        }
        Ok(entries)
    }

    /// Removes deleted entries, which Redis returns without fields.
    async fn without_deleted(&mut self, entries: Vec<Entry>) -> RedisResult<Vec<Entry>> {
        let (deleted, kept): (Vec<_>, Vec<_>) = entries.into_iter().partition(Entry::is_empty);
        let deleted: Vec<_> = deleted.into_iter().map(|entry| entry.id).collect();
        self.acknowledge(&deleted).await?;
        self.report_lost(&deleted).await;
        Ok(kept)
    }

    async fn report_lost(&mut self, deleted: &[StreamId]) {
        let Some(first) = deleted.first() else { return };
        let lost = LostEntries {
            entries: u64::try_from(deleted.len()).unwrap_or(u64::MAX),
            position: *first,
            first_left: None,
        };
        let GroupReaderOptions { losses, group, .. } = &self.options;
        losses.report(&mut self.conn, self.stream, group, &lost).await;
    }

    async fn remove_idle_consumers(&mut self) {
        let idle_ms = duration_ms(self.options.claim_after * REMOVE_AFTER);
        match functions::remove_idle_consumers(self.stream, self.options.group, idle_ms)
            .query_async::<Vec<String>>(&mut self.conn)
            .await
        {
            Ok(removed) if removed.is_empty() => {}
            // Before Redis 7.2 this includes consumers that asked but got no entry; Redis adds them again with their
            // next entry.
            Ok(removed) => {
                tracing::debug!(stream = %self.stream, group = self.options.group, ?removed, "removed idle consumers")
            }
            Err(error) => {
                tracing::warn!(stream = %self.stream, %error, "could not remove idle consumers from the group")
            }
        }
    }
}
