//! Rows and time spans of the tables. A large table is not read: its rows are estimated from the catalogue, and its
//! oldest and newest rows are looked up in its first and last chunks.

use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use super::hypertables::{chunk_ranges, hypertable_of};
use super::rollups;
use super::storage::Chunks;
use crate::domain::time::{TimeRange, to_datetime};
use crate::domain::timeframe::Timeframe;
use crate::postgres::columns::{IntegerValue, OptionalMicros, TimeValue};
use crate::postgres::edition::Edition;

/// Size in bytes up to which the rows of a table are counted.
const COUNTED_BYTES: i64 = 8 << 20;
/// Number of chunks up to which the rows of a table are counted.
const COUNTED_CHUNKS: i64 = 64;

/// Rows of a table and their time span.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Name of the table.
    pub table: &'static str,
    /// Number of rows.
    pub rows: i64,
    /// `true` if `rows` is an estimate.
    pub is_estimate: bool,
    /// Time of the oldest row in µs since 1970.
    pub oldest_us: Option<i64>,
    /// Time of the newest row in µs since 1970.
    pub newest_us: Option<i64>,
}

/// Reads rows and time span of every table with event times. `chunks` are those of all tables.
pub async fn spans(connection: &mut AsyncPgConnection, edition: Edition, chunks: &[Chunks]) -> QueryResult<Vec<Span>> {
    let is_small = |table: &str| {
        let mut of_table = chunks.iter().filter(|chunks| chunks.table_name == table);
        of_table.all(|chunks| chunks.size_bytes <= COUNTED_BYTES && chunks.chunks <= COUNTED_CHUNKS)
    };
    let mut spans = vec![span(connection, "ticks", "ticks", is_small("ticks")).await?];
    let mut is_source_small = true;
    for timeframe in Timeframe::ALL {
        let table = timeframe.table();
        let hypertable = hypertable_of(connection, edition, timeframe).await?;
        // On Community, buckets that are not materialized are computed from the smaller timeframe when they are read.
        is_source_small = is_small(table) && (is_source_small || edition == Edition::Apache);
        let mut found = span(connection, table, &hypertable, is_source_small).await?;
        if found.is_estimate && edition == Edition::Community && timeframe.source().is_some() {
            let watermark_us = rollups::watermark(connection, edition, timeframe).await?;
            add_computed(&mut found, timeframe, watermark_us, spans.last());
        }
        spans.push(found);
    }
    spans.push(span(connection, "signals", "signals", is_small("signals")).await?);
    Ok(spans)
}

/// Extends the time span of a timeframe's materialized buckets by those that are computed from `source`.
fn add_computed(materialized: &mut Span, timeframe: Timeframe, watermark_us: Option<i64>, source: Option<&Span>) {
    let watermark_us = watermark_us.unwrap_or(i64::MIN);
    let computed = source.and_then(|source| source.oldest_us.zip(source.newest_us));
    let Some((oldest_us, newest_us)) = computed.filter(|(_, newest_us)| *newest_us >= watermark_us) else {
        return;
    };
    let oldest_us = timeframe.bucket_start_us(oldest_us.max(watermark_us));
    materialized.oldest_us = Some(materialized.oldest_us.unwrap_or(oldest_us));
    materialized.newest_us = Some(timeframe.bucket_start_us(newest_us));
}

/// Reads the start of the newest minute in the history, in µs since 1970.
pub async fn newest_minute(connection: &mut AsyncPgConnection) -> QueryResult<Option<i64>> {
    let table = Timeframe::M1.table();
    let chunks = chunk_ranges(connection, table).await?;
    edge(connection, table, Edge::Newest, chunks.into_iter().rev()).await
}

async fn span(
    connection: &mut AsyncPgConnection,
    table: &'static str,
    hypertable: &str,
    is_counted: bool,
) -> QueryResult<Span> {
    if is_counted {
        return counted(connection, table).await;
    }
    let chunks = chunk_ranges(connection, hypertable).await?;
    Ok(Span {
        table,
        rows: estimated_rows(connection, hypertable).await?,
        is_estimate: true,
        oldest_us: edge(connection, hypertable, Edge::Oldest, chunks.iter().copied()).await?,
        newest_us: edge(connection, hypertable, Edge::Newest, chunks.iter().rev().copied()).await?,
    })
}

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    rows: i64,
    #[diesel(sql_type = Nullable<Timestamptz>, column_name = oldest, deserialize_as = OptionalMicros)]
    oldest_us: Option<i64>,
    #[diesel(sql_type = Nullable<Timestamptz>, column_name = newest, deserialize_as = OptionalMicros)]
    newest_us: Option<i64>,
}

async fn counted(connection: &mut AsyncPgConnection, table: &'static str) -> QueryResult<Span> {
    let counted: Counted = sql_query(format!(
        "SELECT count(*) AS rows, min(time) AS oldest, max(time) AS newest FROM {table}"
    ))
    .get_result(connection)
    .await?;
    Ok(Span {
        table,
        rows: counted.rows,
        is_estimate: false,
        oldest_us: counted.oldest_us,
        newest_us: counted.newest_us,
    })
}

/// Estimates the rows of a hypertable: the rows that TimescaleDB counted when it compressed a chunk, and what the
/// chunk's size holds of others, at the density that ANALYZE found. A page holds about 75 rows of a table that was
/// never analysed. The name of a chunk holds its ID; the catalogue's own table of chunks differs between versions.
async fn estimated_rows(connection: &mut AsyncPgConnection, hypertable: &str) -> QueryResult<i64> {
    let rows: IntegerValue = sql_query(
        "WITH chunks AS MATERIALIZED (
             SELECT pg_relation_size(class.oid) / current_setting('block_size')::bigint AS pages,
                    CASE WHEN relpages > 0 AND reltuples >= 0 THEN reltuples / relpages END AS density,
                    coalesce(numrows_pre_compression, 0) AS compressed
             FROM timescaledb_information.chunks
             JOIN pg_class class ON class.oid = to_regclass(format('%I.%I', chunk_schema, chunk_name))
             LEFT JOIN _timescaledb_catalog.compression_chunk_size
                 ON chunk_id = substring(chunk_name FROM '_([0-9]+)_chunk$')::integer
             WHERE to_regclass(format('%I.%I', hypertable_schema, hypertable_name)) = $1::regclass)
         SELECT coalesce(sum(compressed + pages * coalesce(density, mean, 75)), 0)::bigint AS value
         FROM chunks, (SELECT avg(density) AS mean FROM chunks) whole",
    )
    .bind::<Text, _>(hypertable)
    .get_result(connection)
    .await?;
    Ok(rows.value)
}

#[derive(Clone, Copy)]
enum Edge {
    Oldest,
    Newest,
}

/// Returns the time of the oldest or newest row of the first of `chunks` that holds rows, in µs since 1970.
async fn edge(
    connection: &mut AsyncPgConnection,
    hypertable: &str,
    edge: Edge,
    chunks: impl Iterator<Item = TimeRange>,
) -> QueryResult<Option<i64>> {
    let (aggregate, order) = match edge {
        Edge::Oldest => ("min", "ASC"),
        Edge::Newest => ("max", "DESC"),
    };
    // The key begins with the symbol, so a row of each symbol is looked up. Signals may be of other symbols.
    let rows = match hypertable {
        "signals" => "signals found WHERE time >= $1 AND time < $2".to_owned(),
        _ => format!(
            "symbols CROSS JOIN LATERAL (
                 SELECT time FROM {hypertable} WHERE symbol = symbols.symbol AND time >= $1 AND time < $2
                 ORDER BY time {order} LIMIT 1) found"
        ),
    };
    for chunk in chunks {
        let time: TimeValue = sql_query(format!("SELECT {aggregate}(found.time) AS value FROM {rows}"))
            .bind::<Timestamptz, _>(to_datetime(chunk.from_us))
            .bind::<Timestamptz, _>(to_datetime(chunk.to_us))
            .get_result(connection)
            .await?;
        if let Some(us) = time.us() {
            return Ok(Some(us));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_that_are_computed_when_they_are_read_extend_the_span_of_the_materialized_ones() {
        let span = |oldest_us, newest_us| Span {
            table: "candles_5m",
            rows: 1,
            is_estimate: true,
            oldest_us,
            newest_us,
        };
        let minute_us = Timeframe::M1.micros();
        let extended = |materialized: (Option<i64>, Option<i64>), watermark_us, source: (Option<i64>, Option<i64>)| {
            let mut found = span(materialized.0, materialized.1);
            let source = span(source.0, source.1);
            add_computed(&mut found, Timeframe::M5, watermark_us, Some(&source));
            (found.oldest_us, found.newest_us)
        };
        let minutes = |minutes: i64| Some(minutes * minute_us);
        let materialized = (minutes(0), minutes(5));
        // The source ends before, in, and after the materialized part.
        assert_eq!(
            extended(materialized, minutes(10), (minutes(0), minutes(9))),
            materialized
        );
        assert_eq!(
            extended(materialized, minutes(10), (minutes(0), minutes(17))),
            (minutes(0), minutes(15))
        );
        // Nothing is materialized.
        assert_eq!(
            extended((None, None), None, (minutes(7), minutes(17))),
            (minutes(5), minutes(15))
        );
        assert_eq!(extended((None, None), None, (None, None)), (None, None));
    }
}
