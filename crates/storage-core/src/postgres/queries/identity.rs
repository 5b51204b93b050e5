//! The identity of the database, and settings of its server that risk the loss of committed data.

use diesel::sql_types::BigInt;
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::database_identity::DatabaseIdentity;
use crate::postgres::columns::{BoolValue, IntegerValue, TextValue};

/// Reads the identity of the database.
pub async fn identity(connection: &mut AsyncPgConnection) -> QueryResult<DatabaseIdentity> {
    let row: TextValue = sql_query(
        "SELECT format('%s@%s/%s', id, (SELECT system_identifier FROM pg_control_system()),
                       (SELECT oid FROM pg_database WHERE datname = current_database())) AS value
         FROM database_identity",
    )
    .get_result(connection)
    .await?;
    Ok(DatabaseIdentity::new(row.value))
}

/// Reads the identity of the database; `None` if the schema does not contain one yet.
pub async fn identity_if_migrated(connection: &mut AsyncPgConnection) -> QueryResult<Option<DatabaseIdentity>> {
    let exists: BoolValue = sql_query("SELECT to_regclass('database_identity') IS NOT NULL AS value")
        .get_result(connection)
        .await?;
    if !exists.value {
        return Ok(None);
    }
    identity(connection).await.optional()
}

/// Returns `true` if transactions of this session are read-only by default, and the session is some seconds old: the
/// default may have changed for new sessions.
pub async fn may_be_read_only_no_longer(connection: &mut AsyncPgConnection) -> QueryResult<bool> {
    let row: BoolValue = sql_query(
        "SELECT CASE WHEN current_setting('default_transaction_read_only')::bool THEN coalesce(
                    (SELECT backend_start < clock_timestamp() - INTERVAL '3 seconds'
                     FROM pg_stat_activity WHERE pid = pg_backend_pid()), false)
                ELSE false END AS value",
    )
    .get_result(connection)
    .await?;
    Ok(row.value)
}

/// Lists settings of the server that risk the loss of committed data, each with its remedy. The embedded server is for
/// development, so its list is empty.
pub async fn risks(connection: &mut AsyncPgConnection) -> QueryResult<Vec<String>> {
    let rows: Vec<TextValue> = sql_query(
        "SELECT name AS value FROM pg_settings
         WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'
           AND current_setting('embedded.single_session', true) IS DISTINCT FROM 'on'
         ORDER BY name",
    )
    .get_results(connection)
    .await?;
    let risk = |TextValue { value: name }| {
        format!(
            "{name} is off: a crash of the server's machine may lose the history; run \
             `psql -c 'ALTER SYSTEM SET {name} = on' -c 'SELECT pg_reload_conf()'` there"
        )
    };
    let mut risks: Vec<String> = rows.into_iter().map(risk).collect();
    // The session has its own value.
    let of_others: BoolValue = sql_query(
        "SELECT coalesce(bool_or(reset_val = 'off'), false) AS value
         FROM pg_settings WHERE name = 'synchronous_commit'",
    )
    .get_result(connection)
    .await?;
    if of_others.value {
        risks.push(
            "synchronous_commit is off; the workers set it on in their sessions, but a crash of the server loses what \
             other clients have just committed"
                .to_owned(),
        );
    }
    let locks: Locks = sql_query(LOCKS).get_result(connection).await?;
    risks.extend(locks.risk());
    Ok(risks)
}

/// Number of locks that a statement needs for each chunk that it can't exclude: the chunk and its indexes.
const LOCKS_PER_CHUNK: i64 = 4;

const LOCKS: &str = "
SELECT coalesce((SELECT max(chunks) FROM (SELECT count(*) AS chunks FROM timescaledb_information.chunks
                                          GROUP BY hypertable_name) tables), 0) AS chunks,
       current_setting('max_locks_per_transaction')::bigint AS per_transaction,
       current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint AS sessions";

#[derive(Debug, QueryableByName)]
struct Locks {
    /// Number of chunks of the table that has most.
    #[diesel(sql_type = BigInt)]
    chunks: i64,
    #[diesel(sql_type = BigInt)]
    per_transaction: i64,
    #[diesel(sql_type = BigInt)]
    sessions: i64,
}

impl Locks {
    /// Returns the warning if the server has too few locks for a statement that reads all chunks of a table.
    fn risk(&self) -> Option<String> {
        let Self {
            chunks,
            per_transaction,
            sessions,
        } = self;
        let (needed, held) = (chunks * LOCKS_PER_CHUNK, per_transaction * sessions);
        let enough = (needed / sessions.max(&1) + 1).max(per_transaction * 2);
        (needed > held).then(|| {
            format!(
                "max_locks_per_transaction is {per_transaction}: the server has {held} locks, and a statement over all \
                 {chunks} chunks of a table needs about {needed}; run \
                 `psql -c 'ALTER SYSTEM SET max_locks_per_transaction = {enough}'` there and restart it"
            )
        })
    }
}

/// Reads the clock of the server, in ms since 1970.
pub async fn clock_ms(connection: &mut AsyncPgConnection) -> QueryResult<i64> {
    let row: IntegerValue = sql_query("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS value")
        .get_result(connection)
        .await?;
    Ok(row.value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_locks_for_the_chunks_are_named_with_a_number_that_suffices() {
        let locks = |chunks, per_transaction| Locks {
            chunks,
            per_transaction,
            sessions: 100,
        };
        assert_eq!(locks(1_600, 64).risk(), None);
        let risk = locks(4_383, 64).risk().unwrap();
        assert!(risk.contains("max_locks_per_transaction = 176"), "{risk}");
        assert_eq!(locks(4_383, 176).risk(), None);
    }
}
