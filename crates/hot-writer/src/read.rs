//! Reads a stream ahead: the next entries are read while the previous ones are folded.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use storage_core::domain::entry::Entry;
use storage_core::redis::stream_reader::StreamReader;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Time for which a read waits for entries.
pub(crate) const BLOCK: Duration = Duration::from_millis(250);

/// Entries and the time at which they were read.
pub(crate) struct Read {
    pub(crate) entries: Vec<Entry>,
    pub(crate) at: Instant,
}

/// Reads at most `count` entries at a time and sends them, or none after [`BLOCK`] without entries, until `token` is
/// cancelled or the receiver is dropped.
pub(crate) async fn read(
    mut reader: StreamReader,
    count: usize,
    reads: mpsc::Sender<Read>,
    token: CancellationToken,
) -> Result<()> {
    while let Some(entries) = token.run_until_cancelled(reader.next(count, BLOCK)).await {
        let entries = entries.context("reading ticks")?;
        let at = Instant::now();
        if reads.send(Read { entries, at }).await.is_err() {
            break;
        }
    }
    Ok(())
}
