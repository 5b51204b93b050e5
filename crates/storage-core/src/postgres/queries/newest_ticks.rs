//! The newest ticks of symbols: what a Redis that is older than the database lacks.

use chrono::{DateTime, Utc};
use diesel::sql_types::{Array, BigInt, Double, Nullable, Text, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::time::to_datetime;
use crate::redis::codec::repairs::Repair;

#[derive(QueryableByName)]
struct Newest {
    #[diesel(sql_type = Text)]
    symbol: String,
    #[diesel(sql_type = Timestamptz)]
    time: DateTime<Utc>,
}

/// The event time of the newest tick of each of `symbols` that has any, in µs since 1970.
///
/// # Errors
/// The database's.
pub async fn times(connection: &mut AsyncPgConnection, symbols: &[Symbol]) -> QueryResult<Vec<(Symbol, i64)>> {
    let rows: Vec<Newest> = sql_query(
        "SELECT wanted.symbol, newest.time FROM (SELECT unnest($1) AS symbol) wanted
         CROSS JOIN LATERAL (SELECT time FROM ticks WHERE symbol = wanted.symbol ORDER BY time DESC LIMIT 1) newest",
    )
    .bind::<Array<Text>, _>(symbols.iter().map(Symbol::as_str).collect::<Vec<_>>())
    .get_results(connection)
    .await?;
    let time = |row: Newest| Some((row.symbol.parse().ok()?, row.time.timestamp_micros()));
    Ok(rows.into_iter().filter_map(time).collect())
}

#[derive(QueryableByName)]
struct Minute {
    #[diesel(sql_type = Timestamptz)]
    minute: DateTime<Utc>,
    #[diesel(sql_type = BigInt)]
    revision: i64,
}

/// The minutes of `symbol` from `from_us` on that have a tick which their candle lacks, or no candle.
///
/// # Errors
/// The database's.
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
                           WHERE candle.symbol = $1 AND candle.time = ticked.minute AND candle.revision >= ticked.revision)",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(from_us))
    .get_results(connection)
    .await?;
    let repair = |row: Minute| Repair {
        symbol: symbol.clone(),
        start_us: row.minute.timestamp_micros(),
        revision: row.revision.try_into().unwrap_or_default(),
    };
    Ok(rows.into_iter().map(repair).collect())
}

/// A tick as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenTick {
    /// Event time in µs since 1970.
    pub ts_us: i64,
    /// Price of a unit.
    pub price: f64,
    /// Quantity in lots of the symbol.
    pub lots: i64,
    /// `buy` or `sell`, where it is known.
    pub side: Option<String>,
    /// The exchange's ID of the trade.
    pub trade_id: Option<String>,
    /// The entry that first carried it.
    pub origin: Revision,
}

#[derive(QueryableByName)]
struct Tick {
    #[diesel(sql_type = Timestamptz)]
    time: DateTime<Utc>,
    #[diesel(sql_type = Double)]
    price: f64,
    #[diesel(sql_type = BigInt)]
    lots: i64,
    #[diesel(sql_type = Nullable<Text>)]
    side: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    trade_id: Option<String>,
    #[diesel(sql_type = BigInt)]
    origin: i64,
}

/// The ticks of `symbol` from `from_us` on whose entries lie in `(after, until]`, in their order.
///
/// # Errors
/// The database's.
pub async fn between(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    from_us: i64,
    after: Revision,
    until: Revision,
) -> QueryResult<Vec<WrittenTick>> {
    let rows: Vec<Tick> = sql_query(
        "SELECT time, price, lots, side,
                CASE trade_key WHEN '' THEN trade_no::text WHEN '@' THEN NULL ELSE trade_key END AS trade_id,
                CASE trade_key WHEN '@' THEN trade_no ELSE revision END AS origin
         FROM ticks WHERE symbol = $1 AND time >= $2 AND revision > $3 AND revision <= $4 ORDER BY revision",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(from_us))
    .bind::<BigInt, _>(after.as_i64())
    .bind::<BigInt, _>(until.as_i64())
    .get_results(connection)
    .await?;
    let tick = |row: Tick| WrittenTick {
        ts_us: row.time.timestamp_micros(),
        price: row.price,
        lots: row.lots,
        side: row.side,
        trade_id: row.trade_id,
        origin: row.origin.try_into().unwrap_or_default(),
    };
    Ok(rows.into_iter().map(tick).collect())
}
