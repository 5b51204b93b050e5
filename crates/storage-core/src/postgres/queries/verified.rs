//! `verified_days`: the last comparison of each day with its sources.

use chrono::{DateTime, Utc};
use diesel::sql_types::{BigInt, Timestamptz};
use diesel::{QueryResult, QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl};

use crate::domain::time::to_datetime;
use crate::postgres::columns::Micros;

/// Result of comparing a day.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct VerifiedDay {
    /// Start of the day in µs since 1970.
    #[diesel(sql_type = Timestamptz, column_name = day, deserialize_as = Micros)]
    pub day_us: i64,
    /// Time of the comparison.
    #[diesel(sql_type = Timestamptz)]
    pub checked: DateTime<Utc>,
    /// Number of candles that differed.
    #[diesel(sql_type = BigInt)]
    pub differences: i64,
    /// Number of minutes of all symbols whose trades are missing.
    #[diesel(sql_type = BigInt)]
    pub missing: i64,
}

/// Reads all days.
pub async fn all(connection: &mut AsyncPgConnection) -> QueryResult<Vec<VerifiedDay>> {
    sql_query("SELECT day AT TIME ZONE 'UTC' AS day, checked, differences, missing FROM verified_days ORDER BY 1")
        .get_results(connection)
        .await
}

/// Records the result of comparing the day that starts at `day_us`.
pub async fn record(
    connection: &mut AsyncPgConnection,
    day_us: i64,
    differences: i64,
    missing: i64,
) -> QueryResult<()> {
    sql_query(
        "INSERT INTO verified_days (day, checked, differences, missing)
         VALUES (($1 AT TIME ZONE 'UTC')::date, now(), $2, $3)
         ON CONFLICT (day) DO UPDATE
         SET checked = excluded.checked, differences = excluded.differences, missing = excluded.missing",
    )
    .bind::<Timestamptz, _>(to_datetime(day_us))
    .bind::<BigInt, _>(differences)
    .bind::<BigInt, _>(missing)
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes the days before `from_us`, whose rows were dropped.
pub async fn forget_before(connection: &mut AsyncPgConnection, from_us: i64) -> QueryResult<()> {
    sql_query("DELETE FROM verified_days WHERE day < ($1 AT TIME ZONE 'UTC')::date")
        .bind::<Timestamptz, _>(to_datetime(from_us))
        .execute(connection)
        .await?;
    Ok(())
}
