//! The identity of the database, and settings of its server that risk the loss of committed data.

use diesel::{OptionalExtension, QueryResult, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::database_identity::DatabaseIdentity;
use crate::postgres::columns::{BoolValue, TextValue};

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
    Ok(rows.into_iter().map(risk).collect())
}
