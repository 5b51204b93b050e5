//! Commits rows to the database in one transaction.

use anyhow::anyhow;
use diesel_async::AsyncConnection;
use storage_core::domain::stream_id::Revision;
use storage_core::postgres::error::{Fault, describe};
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::positions;
use storage_core::redis::stream::Stream;
use tokio::time::Instant;

use crate::kinds::Kind;
use crate::metrics;
use crate::outcome::{Item, Written};

/// Error of a transaction that fails at every attempt because of a row.
pub(crate) struct BadRow(pub(crate) String);

/// Writes rows, and `last` as the last written entry of `stream`, in one transaction. After an outer error the
/// transaction may be retried.
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
