//! Reads a stream ahead: the next entries are read while the previous ones are folded and written.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use redis::RedisResult;
use storage_core::domain::entry::Entry;
use storage_core::redis::stream_reader::StreamReader;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Time for which a read waits for entries.
pub(crate) const BLOCK: Duration = Duration::from_millis(250);

/// Entries and the time at which they were read.
pub(crate) struct Read {
    pub(crate) entries: Vec<Entry>,
    pub(crate) at: Instant,
}

/// Receiver of a task that reads a stream; dropping it aborts the task.
pub(crate) struct ReadAhead {
    read: mpsc::Receiver<RedisResult<Read>>,
    _task: AbortOnDropHandle<()>,
}

impl ReadAhead {
    /// Starts to read, at most `count` entries at a time.
    pub(crate) fn start(mut reader: StreamReader, count: usize) -> Self {
        // One result in the channel and one being read are enough to keep Redis busy.
        let (send, read) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            loop {
                let entries = reader.next(count, BLOCK).await;
                let has_failed = entries.is_err();
                let at = Instant::now();
                if send.send(entries.map(|entries| Read { entries, at })).await.is_err() || has_failed {
                    return;
                }
            }
        });
        Self {
            read,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// Returns the next entries; none if nothing arrived for [`BLOCK`]. Cancel safe. No call may follow an error.
    pub(crate) async fn next(&mut self) -> Result<Read> {
        let read = self.read.recv().await.ok_or_else(|| anyhow!("reading has ended"))?;
        read.context("reading ticks")
    }
}
