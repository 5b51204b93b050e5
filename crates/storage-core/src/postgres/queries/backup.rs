//! Queries of backup and restore besides those for rows: snapshots, the extension, roles, and WAL.

use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use diesel::{OptionalExtension, QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use crate::postgres::columns::{BoolValue, TextValue};

async fn values(connection: &mut AsyncPgConnection, query: &str) -> QueryResult<Vec<String>> {
    let rows: Vec<TextValue> = sql_query(query).get_results(connection).await?;
    Ok(rows.into_iter().map(|row| row.value).collect())
}

async fn value(connection: &mut AsyncPgConnection, query: &str) -> QueryResult<String> {
    let row: TextValue = sql_query(query).get_result(connection).await?;
    Ok(row.value)
}

/// Begins a transaction and exports its snapshot, and returns the snapshot's name for pg_dump. The transaction lasts
/// until [`end_snapshot`] or the end of the connection.
pub async fn begin_snapshot(connection: &mut AsyncPgConnection) -> QueryResult<String> {
    connection
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
             SET LOCAL idle_in_transaction_session_timeout = 0",
        )
        .await?;
    value(connection, "SELECT pg_export_snapshot() AS value").await
}

/// Ends the transaction of [`begin_snapshot`].
pub async fn end_snapshot(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    connection.batch_execute("COMMIT").await
}

/// Lists at most `limit` tables, views and sequences that belong to no extension. A database with any is not empty.
pub async fn user_relations(connection: &mut AsyncPgConnection, limit: i64) -> QueryResult<Vec<String>> {
    let rows: Vec<TextValue> = sql_query(
        "SELECT format('%I.%I', n.nspname, c.relname) AS value
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
           AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
           AND NOT EXISTS (SELECT FROM pg_depend d
                           WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype IN ('e', 'a', 'i'))
         ORDER BY n.nspname <> 'public', 1
         LIMIT $1",
    )
    .bind::<BigInt, _>(limit)
    .get_results(connection)
    .await?;
    Ok(rows.into_iter().map(|row| row.value).collect())
}

/// Reads the version of TimescaleDB in the database; `None` if the extension is not created.
pub async fn extension_version(connection: &mut AsyncPgConnection) -> QueryResult<Option<String>> {
    Ok(values(
        connection,
        "SELECT extversion AS value FROM pg_extension WHERE extname = 'timescaledb'",
    )
    .await?
    .pop())
}

/// Lists the versions of TimescaleDB that the server can create.
pub async fn available_extension_versions(connection: &mut AsyncPgConnection) -> QueryResult<Vec<String>> {
    values(
        connection,
        "SELECT version AS value FROM pg_available_extension_versions WHERE name = 'timescaledb' ORDER BY 1",
    )
    .await
}

/// Creates the extension in exactly this version, one of [`available_extension_versions`]. Only a new connection can
/// use it.
pub async fn create_extension(connection: &mut AsyncPgConnection, version: &str) -> QueryResult<()> {
    let quoted = version.replace('\'', "''");
    connection
        .batch_execute(&format!("CREATE EXTENSION timescaledb VERSION '{quoted}'"))
        .await
}

/// Stops TimescaleDB's workers and triggers in this database, so that pg_restore can fill its tables.
pub async fn pre_restore(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    connection.batch_execute("SELECT timescaledb_pre_restore()").await
}

/// Starts TimescaleDB's workers and triggers again after [`pre_restore`].
pub async fn post_restore(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    connection.batch_execute("SELECT timescaledb_post_restore()").await
}

/// Lists the roles that own objects or have privileges in this database, which a dump therefore names.
pub async fn named_roles(connection: &mut AsyncPgConnection) -> QueryResult<Vec<String>> {
    values(
        connection,
        "SELECT DISTINCT rolname::text AS value
         FROM pg_roles JOIN (
             SELECT acl.grantee FROM pg_class, aclexplode(relacl) acl WHERE relacl IS NOT NULL
             UNION ALL SELECT acl.grantee FROM pg_namespace, aclexplode(nspacl) acl WHERE nspacl IS NOT NULL
             UNION ALL SELECT acl.grantee FROM pg_proc, aclexplode(proacl) acl WHERE proacl IS NOT NULL
             UNION ALL SELECT acl.grantee FROM pg_default_acl, aclexplode(defaclacl) acl
             UNION ALL SELECT defaclrole FROM pg_default_acl
             UNION ALL SELECT relowner FROM pg_class WHERE relnamespace = 'public'::regnamespace
         ) named ON named.grantee = pg_roles.oid
         WHERE rolname NOT LIKE 'pg\\_%'
         ORDER BY 1",
    )
    .await
}

/// Lists the roles of the server.
pub async fn roles(connection: &mut AsyncPgConnection) -> QueryResult<Vec<String>> {
    values(connection, "SELECT rolname::text AS value FROM pg_roles ORDER BY 1").await
}

/// Reads the system identifier, which identifies the data files and the WAL of this server.
pub async fn system_identifier(connection: &mut AsyncPgConnection) -> QueryResult<String> {
    value(
        connection,
        "SELECT system_identifier::text AS value FROM pg_control_system()",
    )
    .await
}

/// Reads the size of a WAL segment in bytes.
pub async fn wal_segment_bytes(connection: &mut AsyncPgConnection) -> QueryResult<String> {
    value(
        connection,
        "SELECT setting AS value FROM pg_settings WHERE name = 'wal_segment_size'",
    )
    .await
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct ReplicationSlot {
    /// `true` if a client streams from it.
    #[diesel(sql_type = Bool)]
    pub active: bool,
    /// WAL that is written but not confirmed by the client, in bytes; `None` before the first use.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub lag_bytes: Option<i64>,
}

/// Reads the slot `name`; `None` if it does not exist.
pub async fn slot(connection: &mut AsyncPgConnection, name: &str) -> QueryResult<Option<ReplicationSlot>> {
    sql_query(
        "SELECT active, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint AS lag_bytes
         FROM pg_replication_slots WHERE slot_name = $1",
    )
    .bind::<Text, _>(name)
    .get_result(connection)
    .await
    .optional()
}

/// Terminates the client that streams from the slot. Returns `true` if there was one.
pub async fn terminate_slot_client(connection: &mut AsyncPgConnection, name: &str) -> QueryResult<bool> {
    let terminated: Option<BoolValue> = sql_query(
        "SELECT pg_terminate_backend(active_pid, 5000) AS value
         FROM pg_replication_slots WHERE slot_name = $1 AND active",
    )
    .bind::<Text, _>(name)
    .get_result(connection)
    .await
    .optional()?;
    Ok(terminated.is_some_and(|row| row.value))
}
