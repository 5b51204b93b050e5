//! `signals`: every signal, once.

use diesel::sql_types::{Array, BigInt, Double, Text, Timestamptz};
use diesel::{QueryResult, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::signal::Signal;
use crate::domain::time::to_datetime;

/// Writes the signals that the table does not hold yet, and returns their number.
pub async fn insert(connection: &mut AsyncPgConnection, signals: &[Signal]) -> QueryResult<usize> {
    let texts = |field: fn(&Signal) -> &str| signals.iter().map(field).collect::<Vec<_>>();
    let times = |us: fn(&Signal) -> i64| signals.iter().map(us).map(to_datetime).collect::<Vec<_>>();
    let revisions = signals.iter().map(|signal| signal.revision.as_i64());
    sql_query(
        "INSERT INTO signals (time, symbol, signal_id, strategy, side, strength, price, expires, revision)
         SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7, $8, $9)
             AS new (time, symbol, signal_id, strategy, side, strength, price, expires, revision)
         ORDER BY symbol, time, signal_id, revision
         ON CONFLICT (symbol, time, signal_id) DO NOTHING",
    )
    .bind::<Array<Timestamptz>, _>(times(|signal| signal.ts_us))
    .bind::<Array<Text>, _>(texts(|signal| signal.symbol.as_str()))
    .bind::<Array<Text>, _>(texts(|signal| &signal.signal_id))
    .bind::<Array<Text>, _>(texts(|signal| &signal.strategy))
    .bind::<Array<Text>, _>(texts(|signal| &signal.side))
    .bind::<Array<Double>, _>(signals.iter().map(|signal| signal.strength).collect::<Vec<_>>())
    .bind::<Array<Double>, _>(signals.iter().map(|signal| signal.price).collect::<Vec<_>>())
    .bind::<Array<Timestamptz>, _>(times(|signal| signal.expires_us))
    .bind::<Array<BigInt>, _>(revisions.collect::<Vec<_>>())
    .execute(connection)
    .await
}
