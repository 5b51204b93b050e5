//! Reading ahead: the next entries come in while the ones before are folded and written.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use redis::RedisResult;
use storage_core::domain::entry::Entry;
use storage_core::redis::stream::StreamReader;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// How long a read waits for ticks.
pub(crate) const BLOCK: Duration = Duration::from_millis(250);

/// Entries, and when they had been read.
pub(crate) struct Read {
    pub(crate) entries: Vec<Entry>,
    pub(crate) at: Instant,
}

/// A stream's entries, read by a task of its own that ends with this.
pub(crate) struct ReadAhead {
    read: mpsc::Receiver<RedisResult<Read>>,
    _task: AbortOnDropHandle<()>,
}

impl ReadAhead {
    /// Reads at most `count` entries at a time.
    pub(crate) fn start(mut reader: StreamReader, count: usize) -> Self {
        // One in the channel and one that comes in are enough to keep Redis busy.
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

    /// The next entries; none when nothing came for [`BLOCK`]. Nothing is lost when this is dropped before it has ended.
    ///
    /// # Errors
    /// When Redis can't be asked; then there is nothing more.
    pub(crate) async fn next(&mut self) -> Result<Read> {
        let read = self.read.recv().await.ok_or_else(|| anyhow!("reading has ended"))?;
        read.context("reading ticks")
    }
}
