//! Writes unusable entries to `stream:dead`, from which warm-syncer stores them.

use anyhow::Context;
use storage_core::domain::entry::Entry;
use storage_core::redis::codec::dead::{DeadLetter, entry_fields};
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::redis::stream::Stream;

/// Writes `entry` of `stream` to the dead letters.
pub(crate) async fn send(redis: &mut Connection, stream: Stream, entry: &Entry, reason: String) -> anyhow::Result<()> {
    tracing::warn!(%stream, id = %entry.id, %reason, "entry can't be used; it is kept as a dead letter");
    functions::announce(Stream::Dead, &entry_fields(&DeadLetter::new(stream, entry, &reason)))
        .query_async::<()>(redis)
        .await
        .context("writing a dead letter")
}
