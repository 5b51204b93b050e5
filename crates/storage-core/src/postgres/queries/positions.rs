//! `positions`: the last entry of each stream that is written to the history.

use diesel::sql_types::{BigInt, Text};
use diesel::{OptionalExtension, QueryResult, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::stream_id::Revision;
use crate::postgres::columns::IntegerValue;
use crate::redis::stream::Stream;

/// Records that all entries of `stream` up to `revision` are written. Call it in the transaction that writes them.
pub async fn raise(connection: &mut AsyncPgConnection, stream: Stream, revision: Revision) -> QueryResult<()> {
    sql_query(
        "INSERT INTO positions (stream, revision) VALUES ($1, $2)
         ON CONFLICT (stream) DO UPDATE SET revision = excluded.revision WHERE positions.revision < excluded.revision",
    )
    .bind::<Text, _>(stream.key().to_string())
    .bind::<BigInt, _>(revision.as_i64())
    .execute(connection)
    .await?;
    Ok(())
}

/// Reads the last written entry of `stream`; `None` before the first write.
pub async fn of(connection: &mut AsyncPgConnection, stream: Stream) -> QueryResult<Option<Revision>> {
    let found: Option<IntegerValue> = sql_query("SELECT revision AS value FROM positions WHERE stream = $1")
        .bind::<Text, _>(stream.key().to_string())
        .get_result(connection)
        .await
        .optional()?;
    Ok(found.and_then(|row| row.value.try_into().ok()))
}
