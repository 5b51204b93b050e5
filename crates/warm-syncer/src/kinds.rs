//! What the entries of each kind of stream become in the database.

use diesel::QueryResult;
use diesel_async::AsyncPgConnection;
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::StreamId;
use storage_core::postgres::pool::Pool;
use storage_core::redis::connection::Connection;
use storage_core::redis::stream::Stream;

use crate::collect::Item;
use crate::commit::Written;

pub(crate) mod candles;
pub(crate) mod dead_letters;
pub(crate) mod signals;
pub(crate) mod ticks;

/// The kinds, as metrics name them.
pub(crate) const KINDS: &[&str] = &[candles::LABEL, ticks::LABEL, signals::LABEL, dead_letters::LABEL];

/// The kind of a stream that this worker reads.
pub(crate) fn label(stream: Stream) -> Option<&'static str> {
    match stream {
        Stream::Candles(_) => Some(candles::LABEL),
        Stream::Ticks(_) => Some(ticks::LABEL),
        Stream::Signals => Some(signals::LABEL),
        Stream::Dead => Some(dead_letters::LABEL),
        Stream::Repairs | Stream::Rollups | Stream::Backups => None,
    }
}

/// A kind of stream.
pub(crate) trait Kind: Send + Sync + 'static {
    /// Its name in metrics.
    const LABEL: &'static str;
    /// What an entry becomes.
    type Row: Send + Sync;

    /// Judges an entry, by itself.
    ///
    /// # Errors
    /// Says why it can't be used.
    fn judge(&self, entry: &Entry) -> Result<Self::Row, Rejection>;

    /// Looks, where reading begins after the entry `at`, whether the stream is what it was: `finished` is the last entry that this
    /// process has finished.
    ///
    /// # Errors
    /// When a store can't be asked.
    fn begins(
        &self,
        _pool: &Pool,
        _redis: &mut Connection,
        _at: StreamId,
        _finished: StreamId,
    ) -> impl Future<Output = anyhow::Result<()>> + Send {
        async { Ok(()) }
    }

    /// Writes rows inside a transaction. Writing them again changes nothing.
    ///
    /// # Errors
    /// The database's.
    fn write(
        &self,
        connection: &mut AsyncPgConnection,
        rows: &[Item<Self::Row>],
    ) -> impl Future<Output = QueryResult<Written>> + Send;
}
