//! Commits rows to the database in one transaction.

use anyhow::anyhow;
use diesel_async::AsyncConnection;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::postgres::error::{Fault, describe, is_too_large};
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::positions;
use storage_core::redis::stream::Stream;
use tokio::time::Instant;

use crate::kinds::Kind;
use crate::metrics;
use crate::outcome::{Item, Written};

/// Reason for which a batch was not written; no retry helps.
pub(crate) enum Refusal {
    /// A row fails at every attempt.
    BadRow(String),
    /// The rows take longer than `statement_timeout`, or more locks than the server has; fewer may succeed.
    TooLarge(String),
    /// The database lacks entries that were written and acknowledged: it was restored to an earlier state.
    OlderDatabase,
}

/// Writes rows, and `last` as the last written entry of `stream`, in one transaction, unless the database lacks entries
/// up to `finished`, which it has confirmed before. After an outer error the transaction may be retried.
pub(crate) async fn commit<K: Kind>(
    pool: &Pool,
    kind: &K,
    rows: &[Item<K::Row>],
    stream: Stream,
    last: Option<Revision>,
    finished: StreamId,
) -> anyhow::Result<Result<Written, Refusal>> {
    let mut connection = pool.get().await?;
    let begin = Instant::now();
    let result = connection
        .transaction(async |connection| {
            let before = positions::of(connection, stream).await?;
            if before.map_or(StreamId::START, Revision::stream_id) < finished {
                return Ok(None);
            }
            let written = kind.write(connection, rows).await?;
            if let Some(last) = last {
                positions::raise(connection, stream, last).await?;
            }
            Ok(Some(written))
        })
        .await;
    metrics::COMMIT_DURATION.record(K::LABEL, begin.elapsed().as_secs_f64());
    match result {
        Ok(Some(written)) => Ok(Ok(written)),
        Ok(None) => Ok(Err(Refusal::OlderDatabase)),
        Err(error) if Fault::of(&error) == Fault::BadRow => Ok(Err(Refusal::BadRow(describe(&error)))),
        Err(error) if rows.len() > 1 && is_too_large(&error) => Ok(Err(Refusal::TooLarge(describe(&error)))),
        Err(error) => Err(anyhow!(describe(&error))),
    }
}
