//! Hypertables behind tables and continuous aggregates, and their chunks.

use std::collections::BTreeMap;
use std::time::Duration;

use diesel::sql_types::{BigInt, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::time::TimeRange;
use crate::domain::timeframe::Timeframe;
use crate::postgres::columns::{Micros, TextValue};
use crate::postgres::edition::Edition;

/// Returns the SQL name of the hypertable that holds the rows of `timeframe`; on Community that of the continuous
/// aggregate.
pub(super) async fn hypertable_of(
    connection: &mut AsyncPgConnection,
    edition: Edition,
    timeframe: Timeframe,
) -> QueryResult<String> {
    if edition == Edition::Apache || timeframe.source().is_none() {
        return Ok(timeframe.table().to_owned());
    }
    let name: TextValue = sql_query(
        "SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name) AS value
         FROM timescaledb_information.continuous_aggregates WHERE view_schema = current_schema() AND view_name = $1",
    )
    .bind::<Text, _>(timeframe.table())
    .get_result(connection)
    .await?;
    Ok(name.value)
}

#[derive(QueryableByName)]
struct Chunk {
    #[diesel(sql_type = Timestamptz, deserialize_as = Micros)]
    range_start: i64,
    #[diesel(sql_type = Timestamptz, deserialize_as = Micros)]
    range_end: i64,
}

/// Returns the time ranges of the chunks of a hypertable, oldest first. `table` is an SQL name.
pub async fn chunk_ranges(connection: &mut AsyncPgConnection, table: &str) -> QueryResult<Vec<TimeRange>> {
    let chunks: Vec<Chunk> = sql_query(
        "SELECT range_start, range_end FROM timescaledb_information.chunks
         WHERE (hypertable_schema, hypertable_name) = (
             SELECT relnamespace::regnamespace::name, relname FROM pg_class WHERE oid = $1::regclass)
         ORDER BY range_start",
    )
    .bind::<Text, _>(table)
    .get_results(connection)
    .await?;
    let range = |chunk: Chunk| TimeRange {
        from_us: chunk.range_start,
        to_us: chunk.range_end,
    };
    Ok(chunks.into_iter().map(range).collect())
}

#[derive(QueryableByName)]
struct Interval {
    #[diesel(sql_type = Text)]
    table_name: String,
    #[diesel(sql_type = BigInt)]
    interval_us: i64,
}

/// Returns the time that a new chunk spans, by table or continuous aggregate.
pub async fn chunk_intervals(connection: &mut AsyncPgConnection) -> QueryResult<BTreeMap<String, Duration>> {
    let intervals: Vec<Interval> = sql_query(
        "SELECT coalesce(view_name, hypertable_name)::text AS table_name,
                (extract(epoch FROM time_interval) * 1000000)::bigint AS interval_us
         FROM timescaledb_information.dimensions
         LEFT JOIN (SELECT view_schema, view_name, materialization_hypertable_schema AS hypertable_schema,
                           materialization_hypertable_name AS hypertable_name
                    FROM timescaledb_information.continuous_aggregates) rollups
             USING (hypertable_schema, hypertable_name)
         WHERE coalesce(view_schema, hypertable_schema) = current_schema() AND time_interval IS NOT NULL",
    )
    .get_results(connection)
    .await?;
    let interval = |row: Interval| {
        let interval = Duration::from_micros(row.interval_us.unsigned_abs());
        (row.table_name, interval)
    };
    Ok(intervals.into_iter().map(interval).collect())
}

/// Sets the time that a new chunk of a table or continuous aggregate spans. Existing chunks keep theirs.
pub async fn set_chunk_interval(
    connection: &mut AsyncPgConnection,
    table: &str,
    interval: Duration,
) -> QueryResult<()> {
    sql_query("SELECT set_chunk_time_interval($1::regclass, make_interval(secs => $2))")
        .bind::<Text, _>(table)
        .bind::<BigInt, _>(i64::try_from(interval.as_secs()).unwrap_or(i64::MAX))
        .execute(connection)
        .await?;
    Ok(())
}
