//! What the history holds and what it weighs: rows and sums, chunks, compression.

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::postgres::edition::Edition;

/// The content of a table, as far as two copies of it can be compared by.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Total {
    /// The table.
    #[diesel(sql_type = Text)]
    pub table_name: String,
    /// Its rows.
    #[diesel(sql_type = BigInt)]
    pub rows: i64,
    /// The sum of its volumes in lots, as exact decimal text; `None` for a table without volumes or rows.
    #[diesel(sql_type = Nullable<Text>)]
    pub volume: Option<String>,
}

/// Rows and volumes of every table.
///
/// # Errors
/// The database's.
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
    /// Its name.
    #[diesel(sql_type = Text)]
    pub table_name: String,
    /// How many chunks there are.
    #[diesel(sql_type = BigInt)]
    pub chunks: i64,
    /// How many of them are compressed.
    #[diesel(sql_type = BigInt)]
    pub compressed: i64,
    /// Start of the oldest.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub oldest: Option<DateTime<Utc>>,
    /// End of the newest.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub newest: Option<DateTime<Utc>>,
    /// Size on disk with indexes, in bytes.
    #[diesel(sql_type = BigInt)]
    pub size_bytes: i64,
}

/// The chunks of every table that has some.
///
/// # Errors
/// The database's.
pub async fn chunks(connection: &mut AsyncPgConnection) -> QueryResult<Vec<Chunks>> {
    sql_query(
        "SELECT coalesce(rollups.view_name, chunks.hypertable_name)::text AS table_name,
                count(*) AS chunks, count(*) FILTER (WHERE is_compressed) AS compressed,
                min(range_start) AS oldest, max(range_end) AS newest,
                coalesce(hypertable_size(format('%I.%I', hypertable_schema, hypertable_name)::regclass), 0) AS size_bytes
         FROM timescaledb_information.chunks
         LEFT JOIN (SELECT view_name, materialization_hypertable_schema AS hypertable_schema, materialization_hypertable_name AS hypertable_name
                    FROM timescaledb_information.continuous_aggregates) rollups USING (hypertable_schema, hypertable_name)
         GROUP BY rollups.view_name, hypertable_schema, hypertable_name
         ORDER BY 1",
    )
    .get_results(connection)
    .await
}

/// What compression did to a hypertable. Only compressed chunks count in the sizes.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Compression {
    /// The hypertable.
    #[diesel(sql_type = Text)]
    pub table_name: String,
    /// Its chunks.
    #[diesel(sql_type = BigInt)]
    pub chunks: i64,
    /// Those of them that are compressed.
    #[diesel(sql_type = BigInt)]
    pub compressed_chunks: i64,
    /// Their size before, with indexes, in bytes.
    #[diesel(sql_type = BigInt)]
    pub before_bytes: i64,
    /// Their size since, with indexes, in bytes.
    #[diesel(sql_type = BigInt)]
    pub after_bytes: i64,
}

/// Compression of each hypertable that has it; `None` on the Apache edition, which has none.
///
/// # Errors
/// The database's.
pub async fn compression(
    connection: &mut AsyncPgConnection,
    edition: Edition,
) -> QueryResult<Option<Vec<Compression>>> {
    if edition == Edition::Apache {
        return Ok(None);
    }
    let found = sql_query(
        "SELECT hypertable_name::text AS table_name, total_chunks AS chunks, number_compressed_chunks AS compressed_chunks,
                coalesce(before_compression_total_bytes, 0) AS before_bytes, coalesce(after_compression_total_bytes, 0) AS after_bytes
         FROM timescaledb_information.hypertables h,
              LATERAL hypertable_compression_stats(format('%I.%I', h.hypertable_schema, h.hypertable_name)::regclass)
         WHERE h.compression_enabled
         ORDER BY 1",
    )
    .get_results(connection)
    .await?;
    Ok(Some(found))
}

/// The rows of a table and the time that they span.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct Span {
    /// The table.
    #[diesel(sql_type = Text)]
    pub table_name: String,
    /// Its rows.
    #[diesel(sql_type = BigInt)]
    pub rows: i64,
    /// Time of the oldest.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub oldest: Option<DateTime<Utc>>,
    /// Time of the newest.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub newest: Option<DateTime<Utc>>,
}

/// Rows and span of the tables of market time.
///
/// # Errors
/// The database's.
pub async fn spans(connection: &mut AsyncPgConnection) -> QueryResult<Vec<Span>> {
    sql_query(
        "SELECT 'ticks' AS table_name, count(*) AS rows, min(time) AS oldest, max(time) AS newest FROM ticks
         UNION ALL SELECT 'candles_1m', count(*), min(time), max(time) FROM candles_1m
         UNION ALL SELECT 'candles_5m', count(*), min(time), max(time) FROM candles_5m
         UNION ALL SELECT 'candles_15m', count(*), min(time), max(time) FROM candles_15m
         UNION ALL SELECT 'candles_1h', count(*), min(time), max(time) FROM candles_1h
         UNION ALL SELECT 'candles_4h', count(*), min(time), max(time) FROM candles_4h
         UNION ALL SELECT 'candles_1d', count(*), min(time), max(time) FROM candles_1d
         UNION ALL SELECT 'signals', count(*), min(time), max(time) FROM signals",
    )
    .get_results(connection)
    .await
}

/// Start, in µs since 1970, of the newest minute that the history holds.
///
/// # Errors
/// The database's.
pub async fn newest_minute(connection: &mut AsyncPgConnection) -> QueryResult<Option<i64>> {
    let newest: Newest = sql_query("SELECT max(time) AS time FROM candles_1m")
        .get_result(connection)
        .await?;
    Ok(newest.time.map(|time| time.timestamp_micros()))
}

#[derive(QueryableByName)]
struct Newest {
    #[diesel(sql_type = Nullable<Timestamptz>)]
    time: Option<DateTime<Utc>>,
}
