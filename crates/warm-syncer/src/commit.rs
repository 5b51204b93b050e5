//! Commits rows to the database in one transaction.

use anyhow::anyhow;
use diesel_async::AsyncConnection;
use storage_core::domain::stream_id::Revision;
use storage_core::postgres::error::{Fault, describe, is_too_large};
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::positions;
use storage_core::redis::stream::Stream;
use tokio::time::Instant;

use crate::kinds::Kind;
use crate::metrics;
use crate::outcome::{Item, Written};

/// Reason for which a transaction has to be divided.
pub(crate) enum TooMuch {
    /// It fails at every attempt because of a row.
    BadRow(String),
    /// It takes longer than `statement_timeout`, or more locks than the server has.
    TooLarge(String),
}

/// Writes rows, and `last` as the last written entry of `stream`, in one transaction. After an outer error the
/// transaction may be retried.
pub(crate) async fn commit<K: Kind>(
    pool: &Pool,
    kind: &K,
    rows: &[Item<K::Row>],
    stream: Stream,
    last: Option<Revision>,
) -> anyhow::Result<Result<Written, TooMuch>> {
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
        Err(error) if Fault::of(&error) == Fault::BadRow => Ok(Err(TooMuch::BadRow(describe(&error)))),
        Err(error) if rows.len() > 1 && is_too_large(&error) => Ok(Err(TooMuch::TooLarge(describe(&error)))),
        Err(error) => Err(anyhow!(describe(&error))),
    }
}
