//! Commit: rows to the database, in one transaction.

use anyhow::anyhow;
use diesel_async::AsyncConnection;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::time::TimeRange;
use storage_core::postgres::error::{Fault, describe};
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::positions;
use storage_core::redis::codec::repairs::Repair;
use storage_core::redis::stream::Stream;
use tokio::time::Instant;

use crate::collect::{Item, Rejected};
use crate::kinds::Kind;
use crate::metrics;

/// What a transaction did, and what follows from it.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Rows that were new or replaced an older revision.
    pub(crate) rows: usize,
    /// Rows that the table held already.
    pub(crate) unchanged: usize,
    /// Entries that turned out to be unusable.
    pub(crate) rejected: Vec<Rejected>,
    /// Minutes to compute again from `ticks`.
    pub(crate) repairs: Vec<Repair>,
    /// Times of candles that the rollups' own policies don't look at any more.
    pub(crate) rollups: Vec<TimeRange>,
}

impl Written {
    /// Adds what another transaction did.
    pub(crate) fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.unchanged += other.unchanged;
        self.rejected.extend(other.rejected);
        self.repairs.extend(other.repairs);
        self.rollups.extend(other.rollups);
    }
}

/// Why the database will never take some rows.
pub(crate) struct BadRow(pub(crate) String);

/// Writes rows, all or none, and that `stream` is written up to the entry `last`. The outer error is one after which trying again may help.
pub(crate) async fn commit<K: Kind>(
    pool: &Pool,
    kind: &K,
    rows: &[Item<K::Row>],
    stream: Stream,
    last: Option<Revision>,
) -> anyhow::Result<Result<Written, BadRow>> {
    let mut connection = pool.get().await?;
    let begin = Instant::now();
    let result = connection
        .transaction(async |connection| {
            let written = kind.write(connection, rows).await?;
            if let Some(last) = last {
                positions::raise(connection, stream, last).await?;
            }
            Ok(written)
        })
        .await;
    metrics::COMMIT_DURATION.record(K::LABEL, begin.elapsed().as_secs_f64());
    match result {
        Ok(written) => Ok(Ok(written)),
        Err(error) if Fault::of(&error) == Fault::BadRow => Ok(Err(BadRow(describe(&error)))),
        Err(error) => Err(anyhow!(describe(&error))),
    }
}
