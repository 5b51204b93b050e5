//! Totals of the tables, and the size of their chunks with and without compression.

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::Serialize;

use crate::postgres::edition::Edition;

/// Totals of a table, for the comparison of two copies.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Total {
    /// Name of the table.
    #[diesel(sql_type = Text)]
    pub table_name: String,
    /// Number of rows.
    #[diesel(sql_type = BigInt)]
    pub rows: i64,
    /// Sum of the volumes in lots, as exact decimal text; `None` for a table without volumes or rows.
    #[diesel(sql_type = Nullable<Text>)]
    pub volume: Option<String>,
}

/// Reads the totals of every table.
pub async fn totals(connection: &mut AsyncPgConnection) -> QueryResult<Vec<Total>> {
    sql_query(
        "SELECT 'candles_1m' AS table_name, count(*) AS rows, sum(volume)::text AS volume FROM candles_1m
         UNION ALL SELECT 'candles_5m', count(*), sum(volume)::text FROM candles_5m
         UNION ALL SELECT 'candles_15m', count(*), sum(volume)::text FROM candles_15m
         UNION ALL SELECT 'candles_1h', count(*), sum(volume)::text FROM candles_1h
         UNION ALL SELECT 'candles_4h', count(*), sum(volume)::text FROM candles_4h
         UNION ALL SELECT 'candles_1d', count(*), sum(volume)::text FROM candles_1d
         UNION ALL SELECT 'ticks', count(*), sum(lots)::text FROM ticks
         UNION ALL SELECT 'signals', count(*), NULL FROM signals
         UNION ALL SELECT 'symbols', count(*), NULL FROM symbols
         UNION ALL SELECT 'dead_letters', count(*), NULL FROM dead_letters",
    )
    .get_results(connection)
    .await
}

/// The chunks of a hypertable or continuous aggregate.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Chunks {
    /// Name of the hypertable or continuous aggregate.
    #[diesel(sql_type = Text)]
    pub table_name: String,
    /// Number of chunks.
    #[diesel(sql_type = BigInt)]
    pub chunks: i64,
    /// Number of compressed chunks.
    #[diesel(sql_type = BigInt)]
    pub compressed: i64,
    /// Number of chunks that the compression policy should have compressed in both of its last two runs.
    #[diesel(sql_type = BigInt)]
    pub overdue: i64,
    /// Start of the oldest chunk.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub oldest: Option<DateTime<Utc>>,
    /// End of the newest chunk.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub newest: Option<DateTime<Utc>>,
    /// Size on disk with indexes, in bytes.
    #[diesel(sql_type = BigInt)]
    pub size_bytes: i64,
}

/// Reads the chunks of every table that has chunks.
pub async fn chunks(connection: &mut AsyncPgConnection) -> QueryResult<Vec<Chunks>> {
    sql_query(
        "SELECT coalesce(rollups.view_name, chunks.hypertable_name)::text AS table_name,
                count(*) AS chunks, count(*) FILTER (WHERE is_compressed) AS compressed,
                count(*) FILTER (WHERE NOT is_compressed AND range_end < now() - compress_after - 2 * every) AS overdue,
                min(range_start) AS oldest, max(range_end) AS newest,
                coalesce(hypertable_approximate_size(
                    format('%I.%I', hypertable_schema, hypertable_name)::regclass), 0) AS size_bytes
         FROM timescaledb_information.chunks
         LEFT JOIN (SELECT view_name, materialization_hypertable_schema AS hypertable_schema,
                           materialization_hypertable_name AS hypertable_name
                    FROM timescaledb_information.continuous_aggregates) rollups
             USING (hypertable_schema, hypertable_name)
         LEFT JOIN (SELECT hypertable_name AS table_name, schedule_interval AS every,
                           (config->>'compress_after')::interval AS compress_after
                    FROM timescaledb_information.jobs WHERE proc_name = 'policy_compression') policies
             ON policies.table_name IN (rollups.view_name, chunks.hypertable_name)
         GROUP BY rollups.view_name, hypertable_schema, hypertable_name
         ORDER BY 1",
    )
    .get_results(connection)
    .await
}

/// Compression of a hypertable or continuous aggregate.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName, Serialize)]
pub struct Compression {
    /// Name of the hypertable or continuous aggregate.
    #[diesel(sql_type = Text)]
    #[serde(rename = "table")]
    pub table_name: String,
    /// Number of chunks.
    #[diesel(sql_type = BigInt)]
    pub chunks: i64,
    /// Number of compressed chunks.
    #[diesel(sql_type = BigInt)]
    pub compressed_chunks: i64,
    /// Size of the compressed chunks before compression, with indexes, in bytes.
    #[diesel(sql_type = BigInt)]
    pub before_bytes: i64,
    /// Size of the compressed chunks after compression, with indexes, in bytes.
    #[diesel(sql_type = BigInt)]
    pub after_bytes: i64,
}

/// Reads the compression of each hypertable and continuous aggregate with compression; `None` on the Apache edition,
/// which can't compress.
pub async fn compression(
    connection: &mut AsyncPgConnection,
    edition: Edition,
) -> QueryResult<Option<Vec<Compression>>> {
    if edition == Edition::Apache {
        return Ok(None);
    }
    let found = sql_query(
        "SELECT table_name::text, total_chunks AS chunks, number_compressed_chunks AS compressed_chunks,
                coalesce(before_compression_total_bytes, 0) AS before_bytes,
                coalesce(after_compression_total_bytes, 0) AS after_bytes
         FROM (SELECT hypertable_name AS table_name, hypertable_schema AS schema, hypertable_name AS hypertable
               FROM timescaledb_information.hypertables WHERE compression_enabled
               UNION ALL
               SELECT view_name, materialization_hypertable_schema, materialization_hypertable_name
               FROM timescaledb_information.continuous_aggregates WHERE compression_enabled) tables,
              LATERAL hypertable_compression_stats(format('%I.%I', schema, hypertable)::regclass)
         ORDER BY 1",
    )
    .get_results(connection)
    .await?;
    Ok(Some(found))
}
