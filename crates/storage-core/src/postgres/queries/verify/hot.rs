//! Candles of the hot view as the history computes them.

use diesel::sql_types::{BigInt, SmallInt, Text, Timestamptz};
use diesel::{OptionalExtension, QueryResult, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::candle::Candle;
use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::time::to_datetime;
use crate::domain::timeframe::Timeframe;
use crate::postgres::columns::BoolValue;
use crate::postgres::queries::candles::ComputedCandle;

/// Returns `true` if the trade of `symbol` at `ts_us`, or a later one, was corrected or busted.
pub async fn is_amended_since(connection: &mut AsyncPgConnection, symbol: &Symbol, ts_us: i64) -> QueryResult<bool> {
    let found: BoolValue =
        sql_query("SELECT EXISTS (SELECT FROM tick_versions WHERE symbol = $1 AND time >= $2) AS value")
            .bind::<Text, _>(symbol.as_str())
            .bind::<Timestamptz, _>(to_datetime(ts_us))
            .get_result(connection)
            .await?;
    Ok(found.value)
}

/// Computes the candle of `symbol` that starts at `start_us` from its ticks up to `until`, whose lots have `decimals`.
/// `None` if there are no ticks. Its revision is that of the last tick, correction or bust.
pub async fn candle(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    timeframe: Timeframe,
    start_us: i64,
    until: Revision,
    decimals: u8,
) -> QueryResult<Option<Candle>> {
    let found: Option<ComputedCandle> = sql_query(
        "SELECT $2 AS time, (array_agg(price ORDER BY time, revision))[1] AS open, max(price) AS high,
                min(price) AS low, (array_agg(price ORDER BY time DESC, revision DESC))[1] AS close,
                lots_to_units(sum(lots), $5)::text AS volume, count(*) AS trades,
                greatest(max(revision), (SELECT max(revision) FROM tick_versions WHERE symbol = $1
                    AND time >= $2 AND time < $3 AND revision <= $4)) AS revision,
                min(time) AS first, max(time) AS last, min(revision) AS since
         FROM ticks WHERE symbol = $1 AND time >= $2 AND time < $3 AND revision <= $4
         HAVING count(*) > 0",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<Timestamptz, _>(to_datetime(start_us))
    .bind::<Timestamptz, _>(to_datetime(start_us + timeframe.micros()))
    .bind::<BigInt, _>(until.as_i64())
    .bind::<SmallInt, _>(i16::from(decimals))
    .get_result(connection)
    .await
    .optional()?;
    Ok(found.map(Candle::from))
}
