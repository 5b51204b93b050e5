//! Kinds of streams: decoding of their entries, and the rows written for them.

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::StreamId;
use storage_core::postgres::pool::Pool;
use storage_core::redis::connection::Connection;

use crate::outcome::{Item, Written};

pub(crate) mod candles;
pub(crate) mod dead_letters;
pub(crate) mod feeds;
pub(crate) mod signals;
pub(crate) mod ticks;

/// A kind of stream.
pub(crate) trait Kind: Send + Sync + 'static {
    /// Value of the metric label `kind`.
    const LABEL: &'static str;
    /// Decoded entry.
    type Row: Send + Sync;

    /// Decodes an entry without using a store.
    ///
    /// # Errors
    /// The reason for which the entry can't be written.
    fn decode(&self, entry: &Entry) -> Result<Self::Row, Rejection>;

    /// Reconciles the stores before the stream is read after the entry `at`. `finished` is the last entry that this
    /// process has finished.
    fn reconcile(
        &self,
        _pool: &Pool,
        _redis: &mut Connection,
        _at: StreamId,
        _finished: StreamId,
    ) -> impl Future<Output = anyhow::Result<()>> + Send {
        async { Ok(()) }
    }

    /// Writes rows inside a transaction. Writing them again changes nothing.
    fn write(
        &self,
        connection: &mut AsyncPgConnection,
        rows: &[Item<Self::Row>],
    ) -> impl Future<Output = QueryResult<Written>> + Send;
}
