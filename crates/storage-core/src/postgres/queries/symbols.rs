//! `symbols`: the lots and prices of each symbol, and the change of lots with existing rows.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, SmallInt, Text, Timestamptz};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use super::completeness;
use super::hypertables::hypertable_of;
use crate::domain::lots::DEFAULT_VOLUME_DECIMALS;
use crate::domain::prices::Prices;
use crate::domain::symbol::Symbol;
use crate::domain::time::{TimeRange, to_datetime};
use crate::domain::timeframe::Timeframe;
use crate::postgres::columns::IntegerValue;
use crate::postgres::edition::Server;
use crate::postgres::error::sqlstate;
use crate::postgres::schema::symbols;

/// Advisory lock, an arbitrary number that no other lock uses. Transactions that convert quantities into lots hold it
/// shared, and one that changes the decimals of a symbol holds it exclusively.
const LOTS_LOCK: i64 = 0x6c6f_7473;

/// Prevents changes of decimals until the end of this transaction. Call it before [`decimals`].
pub async fn lock_decimals(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    diesel::sql_query("SELECT pg_advisory_xact_lock_shared($1)")
        .bind::<BigInt, _>(LOTS_LOCK)
        .execute(connection)
        .await?;
    Ok(())
}

/// Adds the symbols that the table does not hold yet, and returns their number.
pub async fn register(connection: &mut AsyncPgConnection, new: &[&Symbol]) -> QueryResult<usize> {
    let mut names: Vec<&str> = new.iter().map(|symbol| symbol.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    // An array needs one parameter; a statement can't have more than 65,535.
    diesel::sql_query("INSERT INTO symbols (symbol) SELECT unnest($1) ON CONFLICT (symbol) DO NOTHING")
        .bind::<Array<Text>, _>(names)
        .execute(connection)
        .await
}

/// Reads the volume decimals of those of the `wanted` symbols that the table holds.
pub async fn decimals(connection: &mut AsyncPgConnection, wanted: &[&Symbol]) -> QueryResult<HashMap<Symbol, u8>> {
    let names: Vec<&str> = wanted.iter().map(|symbol| symbol.as_str()).collect();
    let rows: Vec<(String, i16)> = symbols::table
        .filter(symbols::symbol.eq_any(names))
        .select((symbols::symbol, symbols::volume_decimals))
        .load(connection)
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|(name, decimals)| Some((name.parse().ok()?, u8::try_from(decimals).ok()?)))
        .collect())
}

/// A row of `symbols`.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = symbols)]
pub struct KnownSymbol {
    /// Name of the symbol.
    pub symbol: String,
    /// Decimals of its lots, which are `10^-volume_decimals` units.
    pub volume_decimals: i16,
    /// Time at which the row was written.
    pub first_seen: DateTime<Utc>,
    /// `positive` or `any`: the prices that the symbol can have.
    pub prices: String,
}

impl KnownSymbol {
    /// Returns the prices that the symbol can have.
    pub fn prices(&self) -> Prices {
        self.prices.parse().unwrap_or_default()
    }
}

/// Selects those of the `wanted` symbols that can have any price.
pub async fn with_any_price(connection: &mut AsyncPgConnection, wanted: &[&Symbol]) -> QueryResult<HashSet<Symbol>> {
    let names: Vec<&str> = wanted.iter().map(|symbol| symbol.as_str()).collect();
    let found: Vec<String> = symbols::table
        .filter(symbols::symbol.eq_any(names))
        .filter(symbols::prices.eq(Prices::Any.as_str()))
        .select(symbols::symbol)
        .load(connection)
        .await?;
    Ok(found.into_iter().filter_map(|name| name.parse().ok()).collect())
}

/// Sets the prices that `symbol` can have. Returns `false` if it had them already.
pub async fn set_prices(connection: &mut AsyncPgConnection, symbol: &Symbol, prices: Prices) -> QueryResult<bool> {
    register(connection, &[symbol]).await?;
    let changed = diesel::update(symbols::table.find(symbol.as_str()))
        .filter(symbols::prices.ne(prices.as_str()))
        .set(symbols::prices.eq(prices.as_str()))
        .execute(connection)
        .await?;
    Ok(changed == 1)
}

/// Lists all symbols by name.
pub async fn list(connection: &mut AsyncPgConnection) -> QueryResult<Vec<KnownSymbol>> {
    symbols::table
        .select(KnownSymbol::as_select())
        .order(symbols::symbol)
        .load(connection)
        .await
}

/// Result of [`set_decimals`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rescaled {
    /// Previous decimals.
    pub from: u8,
    /// Number of rewritten rows of `candles_1m`.
    pub candles: usize,
    /// Number of rewritten rows of `ticks`.
    pub ticks: usize,
    /// Time range of the rewritten candles, in which the larger timeframes must be refreshed.
    pub range: Option<TimeRange>,
}

/// Error of [`set_decimals`], which then has changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum SetDecimalsError {
    /// There are rows, and the caller does not allow rewriting them.
    #[error(
        "{symbol} has {candles} candles and {ticks} ticks in lots of {from} decimals; add --rescale to rewrite them"
    )]
    HasRows {
        /// Symbol with the rows.
        symbol: Symbol,
        /// Current decimals.
        from: u8,
        /// Number of rows in `candles_1m`.
        candles: i64,
        /// Number of rows in `ticks`.
        ticks: i64,
    },
    /// The coarser lots can't hold every volume exactly.
    #[error(
        "{inexact} rows of {symbol} have volumes with more than {to} decimals, which would be rounded; use {least} \
         decimals or more; a trade that is too large for {least} decimals stays a dead letter"
    )]
    Inexact {
        /// Symbol with the rows.
        symbol: Symbol,
        /// Requested decimals.
        to: u8,
        /// Number of rows that would be rounded.
        inexact: i64,
        /// Smallest number of decimals that holds all rows exactly.
        least: i64,
    },
    /// A bigint can't hold the finer lots of a row.
    #[error("some volumes of {symbol} do not fit in a bigint at {to} decimals; use fewer decimals")]
    TooLarge {
        /// Symbol with the row.
        symbol: Symbol,
        /// Requested decimals.
        to: u8,
    },
    /// Error of the database.
    #[error(transparent)]
    Database(#[from] diesel::result::Error),
}

#[derive(QueryableByName)]
struct Rows {
    #[diesel(sql_type = BigInt)]
    candles: i64,
    #[diesel(sql_type = BigInt)]
    ticks: i64,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    first: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    last: Option<DateTime<Utc>>,
}

/// Sets the lots of `symbol` to `10^-to` units, and rewrites existing rows to exactly the same quantities if `rescale`
/// is `true`. Waits for the transactions that hold [`lock_decimals`]. The change is recorded with its `reason`; the
/// caller refreshes the range and completes it by [`complete_changes`].
pub async fn set_decimals(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    to: u8,
    rescale: bool,
    reason: &str,
) -> Result<Rescaled, SetDecimalsError> {
    connection
        .transaction(async |connection| {
            connection.batch_execute("SET LOCAL statement_timeout = 0").await?;
            diesel::sql_query("SELECT pg_advisory_xact_lock($1)")
                .bind::<BigInt, _>(LOTS_LOCK)
                .execute(connection)
                .await?;
            register(connection, &[symbol]).await?;
            let from = decimals(connection, &[symbol])
                .await?
                .get(symbol)
                .copied()
                .unwrap_or(DEFAULT_VOLUME_DECIMALS);
            let mut done = Rescaled {
                from,
                ..Rescaled::default()
            };
            if from == to {
                return Ok(done);
            }
            let rows = rows_of(connection, symbol).await?;
            if rows.candles + rows.ticks > 0 {
                if !rescale {
                    return Err(SetDecimalsError::HasRows {
                        symbol: symbol.clone(),
                        from,
                        candles: rows.candles,
                        ticks: rows.ticks,
                    });
                }
                (done.candles, done.ticks) = rewrite(connection, symbol, from, to).await?;
                done.range = rows.first.zip(rows.last).map(|(first, last)| TimeRange {
                    from_us: first.timestamp_micros(),
                    to_us: last.timestamp_micros() + Timeframe::M1.micros(),
                });
            }
            diesel::update(symbols::table.find(symbol.as_str()))
                .set(symbols::volume_decimals.eq(i16::from(to)))
                .execute(connection)
                .await?;
            record_change(connection, symbol, to, &done, reason).await?;
            Ok(done)
        })
        .await
}

/// A change of the decimals of a symbol.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct SymbolChange {
    /// Time of the change.
    #[diesel(sql_type = Timestamptz)]
    pub changed_at: DateTime<Utc>,
    /// Symbol whose decimals were changed.
    #[diesel(sql_type = Text)]
    pub symbol: Symbol,
    /// Decimals before the change.
    #[diesel(sql_type = SmallInt)]
    pub from_decimals: i16,
    /// Decimals after the change.
    #[diesel(sql_type = SmallInt)]
    pub to_decimals: i16,
    /// Reason of the change.
    #[diesel(sql_type = Text)]
    pub reason: String,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    refresh_from: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    refresh_to: Option<DateTime<Utc>>,
}

impl SymbolChange {
    /// Returns the time range in which the larger timeframes must be refreshed.
    pub fn range(&self) -> Option<TimeRange> {
        let (from, to) = self.refresh_from.zip(self.refresh_to)?;
        Some(TimeRange {
            from_us: from.timestamp_micros(),
            to_us: to.timestamp_micros(),
        })
    }
}

const CHANGES: &str =
    "SELECT changed_at, symbol, from_decimals, to_decimals, reason, refresh_from, refresh_to FROM symbol_changes";

/// Lists the newest `limit` changes of decimals, newest first.
pub async fn changes(connection: &mut AsyncPgConnection, limit: i64) -> QueryResult<Vec<SymbolChange>> {
    diesel::sql_query(format!("{CHANGES} ORDER BY changed_at DESC LIMIT $1"))
        .bind::<BigInt, _>(limit)
        .get_results(connection)
        .await
}

/// Lists the changes whose larger timeframes were not refreshed yet.
pub async fn incomplete_changes(connection: &mut AsyncPgConnection) -> QueryResult<Vec<SymbolChange>> {
    diesel::sql_query(format!("{CHANGES} WHERE NOT is_complete ORDER BY changed_at"))
        .get_results(connection)
        .await
}

/// Marks the changes of `symbol` as refreshed.
pub async fn complete_changes(connection: &mut AsyncPgConnection, symbol: &Symbol) -> QueryResult<usize> {
    diesel::sql_query("UPDATE symbol_changes SET is_complete = true WHERE symbol = $1 AND NOT is_complete")
        .bind::<Text, _>(symbol.as_str())
        .execute(connection)
        .await
}

async fn record_change(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    to: u8,
    done: &Rescaled,
    reason: &str,
) -> QueryResult<usize> {
    let number = |rows: usize| i64::try_from(rows).unwrap_or(i64::MAX);
    diesel::sql_query(
        "INSERT INTO symbol_changes
             (symbol, from_decimals, to_decimals, candles, ticks, reason, refresh_from, refresh_to)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind::<Text, _>(symbol.as_str())
    .bind::<SmallInt, _>(i16::from(done.from))
    .bind::<SmallInt, _>(i16::from(to))
    .bind::<BigInt, _>(number(done.candles))
    .bind::<BigInt, _>(number(done.ticks))
    .bind::<Text, _>(reason)
    .bind::<Nullable<Timestamptz>, _>(done.range.map(|range| to_datetime(range.from_us)))
    .bind::<Nullable<Timestamptz>, _>(done.range.map(|range| to_datetime(range.to_us)))
    .execute(connection)
    .await
}

async fn rows_of(connection: &mut AsyncPgConnection, symbol: &Symbol) -> QueryResult<Rows> {
    diesel::sql_query(
        "SELECT count(*) AS candles, (SELECT count(*) FROM ticks WHERE symbol = $1) AS ticks,
                min(time) AS first, max(time) AS last
         FROM candles_1m WHERE symbol = $1",
    )
    .bind::<Text, _>(symbol.as_str())
    .get_result(connection)
    .await
}

async fn rewrite(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    from: u8,
    to: u8,
) -> Result<(usize, usize), SetDecimalsError> {
    let shift = i16::from(to) - i16::from(from);
    let old = candles_without_minutes(connection).await?;
    if shift < 0 {
        let IntegerValue { value: mut inexact } = diesel::sql_query(
            "SELECT (SELECT count(*) FROM candles_1m WHERE symbol = $1 AND volume % ('1e' || -$2)::numeric <> 0)
                  + (SELECT count(*) FROM ticks WHERE symbol = $1 AND lots % ('1e' || -$2)::numeric <> 0) AS value",
        )
        .bind::<Text, _>(symbol.as_str())
        .bind::<SmallInt, _>(shift)
        .get_result(connection)
        .await?;
        for (table, border_us) in &old {
            let rows: IntegerValue = diesel::sql_query(format!(
                "SELECT count(*) AS value FROM {table}
                 WHERE symbol = $1 AND time < $3 AND volume % ('1e' || -$2)::numeric <> 0"
            ))
            .bind::<Text, _>(symbol.as_str())
            .bind::<SmallInt, _>(shift)
            .bind::<Timestamptz, _>(to_datetime(*border_us))
            .get_result(connection)
            .await?;
            inexact += rows.value;
        }
        if inexact > 0 {
            return Err(SetDecimalsError::Inexact {
                symbol: symbol.clone(),
                to,
                inexact,
                least: least_decimals(connection, symbol, from, &old).await?,
            });
        }
    }
    for (table, border_us) in &old {
        diesel::sql_query(format!(
            "UPDATE {table} SET volume = trim_scale(volume * ('1e' || $2)::numeric) WHERE symbol = $1 AND time < $3"
        ))
        .bind::<Text, _>(symbol.as_str())
        .bind::<SmallInt, _>(shift)
        .bind::<Timestamptz, _>(to_datetime(*border_us))
        .execute(connection)
        .await?;
    }
    let rescaled = async {
        let candles = rescale_column(connection, "candles_1m", "volume", symbol, shift).await?;
        Ok((
            candles,
            rescale_column(connection, "ticks", "lots", symbol, shift).await?,
        ))
    };
    rescaled.await.map_err(|error| match sqlstate(&error) {
        Some("22003") => SetDecimalsError::TooLarge {
            symbol: symbol.clone(),
            to,
        },
        _ => error.into(),
    })
}

/// Returns the smallest number of decimals that holds every volume of `symbol` in candles, ticks and the `larger`
/// tables.
async fn least_decimals(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    from: u8,
    larger: &[(String, i64)],
) -> QueryResult<i64> {
    let mut columns = vec![("candles_1m", "volume"), ("ticks", "lots")];
    columns.extend(larger.iter().map(|(table, _)| (table.as_str(), "volume")));
    let mut least = 0;
    for (table, column) in columns {
        let found: IntegerValue = diesel::sql_query(format!(
            "SELECT coalesce(max(min_scale({column} * ('1e-' || $2)::numeric)), 0)::bigint AS value
             FROM {table} WHERE symbol = $1"
        ))
        .bind::<Text, _>(symbol.as_str())
        .bind::<SmallInt, _>(i16::from(from))
        .get_result(connection)
        .await?;
        least = least.max(found.value);
    }
    Ok(least)
}

/// Returns the tables of the larger timeframes, each with the border in µs since 1970 before which its candles can't be
/// computed again, because their minutes were dropped.
async fn candles_without_minutes(connection: &mut AsyncPgConnection) -> QueryResult<Vec<(String, i64)>> {
    let mut found = Vec::new();
    let Some(server) = Server::detect(connection).await? else {
        return Ok(found);
    };
    completeness::update_borders(connection, server.edition).await?;
    for timeframe in &Timeframe::ALL[1..] {
        let border_us = completeness::first_bucket(connection, Timeframe::M1.table(), *timeframe).await?;
        if border_us > i64::MIN {
            found.push((hypertable_of(connection, server.edition, *timeframe).await?, border_us));
        }
    }
    Ok(found)
}

async fn rescale_column(
    connection: &mut AsyncPgConnection,
    table: &str,
    column: &str,
    symbol: &Symbol,
    shift: i16,
) -> QueryResult<usize> {
    diesel::sql_query(format!(
        "UPDATE {table} SET {column} = ({column} * ('1e' || $2)::numeric)::bigint WHERE symbol = $1"
    ))
    .bind::<Text, _>(symbol.as_str())
    .bind::<SmallInt, _>(shift)
    .execute(connection)
    .await
}
