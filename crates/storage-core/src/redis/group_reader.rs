//! Reading a stream as a member of a consumer group, so that no entry is forgotten.
//!
//! A reader first finishes its own backlog (what it was handed before a crash), from time to time takes over what a
//! dead consumer left, and else waits for new entries. A group that was lost is created again from the oldest entry kept.
//! Consumers that are gone and have nothing left are taken out of the group. Entries that somebody deleted before they were
//! finished are lost: they are counted, and reported as errors.

use std::time::{Duration, Instant};

use redis::{RedisResult, Value, cmd};

use super::connection::Connection;
use super::entry_reader::EntryReader;
use super::functions;
use super::lost::{LossWatch, Losses, Lost};
use super::reply;
use super::stream::{Stream, block_ms, create_group};
use crate::config::redis::RedisConfig;
use crate::domain::entry::Entry;
use crate::domain::stream_id::StreamId;

/// A consumer is gone when it has not been heard of for so many times `claim_after`.
const GONE_AFTER: u32 = 10;

/// How a reader takes part in its group.
#[derive(Clone, Debug)]
pub struct GroupReaderOptions {
    /// The consumer group.
    pub group: &'static str,
    /// This consumer's name; the same after a restart, so that it finds its backlog.
    pub consumer: String,
    /// The most entries in a batch.
    pub batch: usize,
    /// How long to wait for new entries.
    pub block: Duration,
    /// After this time without acknowledgement another consumer's entries are taken over.
    pub claim_after: Duration,
    /// Reports the entries that were deleted before they were finished.
    pub losses: Losses,
}

/// A member of a consumer group.
pub struct GroupReader {
    entries: EntryReader,
    watch: LossWatch,
    conn: Connection,
    stream: Stream,
    options: GroupReaderOptions,
    backlog: Option<StreamId>,
    claim_cursor: StreamId,
    next_claim: Instant,
}

impl GroupReader {
    /// A reader with connections of its own.
    pub fn new(config: &RedisConfig, stream: Stream, options: GroupReaderOptions) -> Self {
        Self {
            entries: EntryReader::new(config, options.block),
            watch: LossWatch::handed_out(config, stream, options.group, options.losses.clone()),
            conn: Connection::ordinary(config),
            stream,
            options,
            backlog: Some(StreamId::START),
            claim_cursor: StreamId::START,
            next_claim: Instant::now(),
        }
    }

    /// The stream that is read.
    pub fn stream(&self) -> Stream {
        self.stream
    }

    /// The next entries to work on; empty when there was nothing within the blocking time.
    ///
    /// # Errors
    /// When Redis can't be asked; reading again is safe.
    pub async fn read(&mut self) -> RedisResult<Vec<Entry>> {
        match self.read_next().await {
            Err(error) if error.code() == Some("NOGROUP") => {
                if create_group(&mut self.conn, self.stream, self.options.group).await? {
                    tracing::warn!(stream = %self.stream, group = self.options.group, "consumer group was lost; created it again from the oldest entry");
                }
                self.backlog = Some(StreamId::START);
                Ok(Vec::new())
            }
            result => result,
        }
    }

    /// At most `count` new entries, waiting up to `block`, which is not longer than the options' one: more for a batch that
    /// [`read`](Self::read) has begun.
    ///
    /// # Errors
    /// When Redis can't be asked; reading again is safe.
    pub async fn read_more(&mut self, count: usize, block: Duration) -> RedisResult<Vec<Entry>> {
        self.read_group(">", count, block).await
    }

    /// Marks entries as done.
    ///
    /// # Errors
    /// When Redis can't be asked; they'll then be read again.
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
        self.watch.check().await?;
        if let Some(after) = self.backlog {
            let entries = self
                .read_group(&after.to_string(), self.options.batch, self.options.block)
                .await?;
            self.backlog = entries.last().map(|entry| entry.id);
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
        command
            .arg("GROUP")
            .arg(self.options.group)
            .arg(&self.options.consumer)
            .arg("COUNT")
            .arg(count)
            .arg("BLOCK")
            .arg(block_ms(block))
            .arg("STREAMS")
            .arg(self.stream.key())
            .arg(after);
        self.entries.read(&command).await
    }

    /// Takes over what others have left, a batch at a time; a whole round done, the next one waits.
    async fn claim(&mut self) -> RedisResult<Vec<Entry>> {
        let reply: Value = cmd("XAUTOCLAIM")
            .arg(self.stream.key())
            .arg(self.options.group)
            .arg(&self.options.consumer)
            .arg(millis(self.options.claim_after))
            .arg(self.claim_cursor.to_string())
            .arg("COUNT")
            .arg(self.options.batch)
            .query_async(&mut self.conn)
            .await?;
        let mut parts = reply::array(reply)?.into_iter();
        self.claim_cursor = reply::stream_id(parts.next().unwrap_or(Value::Nil))?;
        let entries = reply::entries(parts.next().unwrap_or(Value::Nil))?;
        // Redis has taken them out of the group already.
        let deleted = reply::array(parts.next().unwrap_or(Value::Array(Vec::new())))?;
        let deleted = deleted.into_iter().map(reply::stream_id);
        self.report_lost(&deleted.collect::<RedisResult<Vec<_>>>()?).await;
        if self.claim_cursor == StreamId::START {
            self.next_claim = Instant::now() + self.options.claim_after;
            self.retire_gone().await;
        }
        Ok(entries)
    }

    /// Takes out the entries that were deleted, which come without fields.
    async fn without_deleted(&mut self, entries: Vec<Entry>) -> RedisResult<Vec<Entry>> {
        let (deleted, kept): (Vec<_>, Vec<_>) = entries.into_iter().partition(Entry::is_empty);
        let deleted: Vec<_> = deleted.into_iter().map(|entry| entry.id).collect();
        self.acknowledge(&deleted).await?;
        self.report_lost(&deleted).await;
        Ok(kept)
    }

    async fn report_lost(&mut self, deleted: &[StreamId]) {
        let Some(first) = deleted.first() else { return };
        let lost = Lost {
            entries: u64::try_from(deleted.len()).unwrap_or(u64::MAX),
            position: *first,
            first_left: None,
        };
        let GroupReaderOptions { losses, group, .. } = &self.options;
        losses.report(&mut self.conn, self.stream, group, &lost).await;
    }

    async fn retire_gone(&mut self) {
        let idle_ms = millis(self.options.claim_after * GONE_AFTER);
        match functions::retire(self.stream, self.options.group, idle_ms)
            .query_async::<Vec<String>>(&mut self.conn)
            .await
        {
            Ok(retired) if retired.is_empty() => {}
            // Before Redis 7.2 also those that were only given nothing for so long; they come back with their next entry.
            Ok(retired) => {
                tracing::debug!(stream = %self.stream, group = self.options.group, ?retired, "consumers are gone")
            }
            Err(error) => {
                tracing::warn!(stream = %self.stream, %error, "could not take gone consumers out of the group")
            }
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
