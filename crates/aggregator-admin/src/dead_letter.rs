//! Entries that can't be used go to `stream:dead`, and warm-syncer keeps them.

use anyhow::Context;
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::redis::codec::dead::{DeadLetter, entry_fields};
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::redis::stream::Stream;

/// Puts `entry` of `stream` aside, saying why.
pub(crate) async fn send(
    redis: &mut Connection,
    stream: Stream,
    entry: &Entry,
    reason: &Rejection,
) -> anyhow::Result<()> {
    send_because(redis, stream, entry, reason.to_string()).await
}

/// As [`send`], for reasons that are no fault of the entry's form.
pub(crate) async fn send_because(
    redis: &mut Connection,
    stream: Stream,
    entry: &Entry,
    reason: String,
) -> anyhow::Result<()> {
    tracing::warn!(%stream, id = %entry.id, %reason, "entry can't be used");
    let mut letter = DeadLetter::new(stream, entry, &Rejection::Refused(String::new()));
    letter.reason = reason;
    functions::announce(Stream::Dead, &entry_fields(&letter))
        .query_async::<()>(redis)
        .await
        .context("writing a dead letter")
}
