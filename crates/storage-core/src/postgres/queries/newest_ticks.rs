//! The newest ticks of symbols, which a Redis restored to an earlier state lacks.

use diesel::sql_types::{Array, BigInt, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::time::to_datetime;
use crate::postgres::columns::Micros;
use crate::redis::codec::repairs::Repair;

#[derive(QueryableByName)]
struct Newest {
    #[diesel(sql_type = Text)]
    symbol: Symbol,
    #[diesel(sql_type = Timestamptz, column_name = time, deserialize_as = Micros)]
    ts_us: i64,
}

/// Reads the event time of the newest tick of each symbol that has ticks, in µs since 1970.
pub async fn times(connection: &mut AsyncPgConnection, symbols: &[Symbol]) -> QueryResult<Vec<(Symbol, i64)>> {
    let rows: Vec<Newest> = sql_query(
        "SELECT wanted.symbol, newest.time FROM (SELECT unnest($1) AS symbol) wanted
         CROSS JOIN LATERAL (SELECT time FROM ticks WHERE symbol = wanted.symbol ORDER BY time DESC LIMIT 1) newest",
    )
    .bind::<Array<Text>, _>(symbols.iter().map(Symbol::as_str).collect::<Vec<_>>())
    .get_results(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.symbol, row.ts_us)).collect())
}

#[derive(QueryableByName)]
struct Minute {
    #[diesel(sql_type = Timestamptz, column_name = minute, deserialize_as = Micros)]
    start_us: i64,
    #[diesel(sql_type = BigInt)]
    revision: Revision,
}

/// Returns the minutes of `symbol` from `from_us` on that have no candle, or a tick that is not in their candle.
pub async fn minutes_behind(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    from_us: i64,
) -> QueryResult<Vec<Repair>> {
    let rows: Vec<Minute> = sql_query(
        "SELECT minute, revision
         FROM (SELECT date_trunc('minute', time, 'UTC') AS minute, max(revision) AS revision
               FROM ticks WHERE symbol = $1 AND time >= $2 GROUP BY 1) ticked
         WHERE NOT EXISTS (SELECT FROM candles_1m candle
                           WHERE candle.symbol = $1 AND candle.time = ticked.minute
                             AND candle.revision >= ticked.revision)",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(from_us))
    .get_results(connection)
    .await?;
    let repair = |row: Minute| Repair {
        symbol: symbol.clone(),
        start_us: row.start_us,
        revision: row.revision,
    };
    Ok(rows.into_iter().map(repair).collect())
}
