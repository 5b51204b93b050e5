//! `positions`: the last entry of each stream that is written to the history, and `lost_entries`: written entries that
//! Redis has lost.

use diesel::sql_types::{BigInt, Text};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
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

/// Written entries that Redis has lost.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct LostEntries {
    /// Key of the stream.
    #[diesel(sql_type = Text)]
    pub stream: String,
    /// Last entry that Redis still had.
    #[diesel(sql_type = BigInt)]
    pub after: i64,
    /// Last entry that was lost.
    #[diesel(sql_type = BigInt)]
    pub until: i64,
}

/// Records that Redis has lost the entries of `stream` in `(after, until]`.
pub async fn record_loss(
    connection: &mut AsyncPgConnection,
    stream: Stream,
    after: Revision,
    until: Revision,
) -> QueryResult<()> {
    sql_query(
        "INSERT INTO lost_entries (stream, after, until) VALUES ($1, $2, $3)
         ON CONFLICT (stream, after, until) DO NOTHING",
    )
    .bind::<Text, _>(stream.key().to_string())
    .bind::<BigInt, _>(after.as_i64())
    .bind::<BigInt, _>(until.as_i64())
    .execute(connection)
    .await?;
    Ok(())
}

/// Reads the entries that Redis has lost.
pub async fn losses(connection: &mut AsyncPgConnection) -> QueryResult<Vec<LostEntries>> {
    sql_query("SELECT stream, after, until FROM lost_entries")
        .get_results(connection)
        .await
}
