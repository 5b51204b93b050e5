//! `symbols`: the size of each symbol's lot, and the only way to change it once there are rows.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, SmallInt, Text, Timestamptz};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};

use super::{completeness, rollups};
use crate::domain::lots::DEFAULT_VOLUME_DECIMALS;
use crate::domain::symbol::Symbol;
use crate::domain::time::{TimeRange, to_datetime};
use crate::domain::timeframe::Timeframe;
use crate::postgres::edition::Server;
use crate::postgres::schema::symbols;

/// Held shared by every transaction that turns quantities into lots, and exclusively by the one that changes what a
/// lot is. The number means nothing; it must only be nobody else's.
const LOTS_LOCK: i64 = 0x6c6f_7473;

/// Keeps what a lot is from changing until the end of this transaction. Take it before [`decimals`].
///
/// # Errors
/// The database's.
pub async fn keep_decimals(connection: &mut AsyncPgConnection) -> QueryResult<()> {
    diesel::sql_query("SELECT pg_advisory_xact_lock_shared($1)")
        .bind::<BigInt, _>(LOTS_LOCK)
        .execute(connection)
        .await?;
    Ok(())
}

/// Adds the symbols that the table does not hold yet. Returns how many were new.
///
/// # Errors
/// The database's.
pub async fn register(connection: &mut AsyncPgConnection, new: &[&Symbol]) -> QueryResult<usize> {
    let mut names: Vec<&str> = new.iter().map(|symbol| symbol.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    // One parameter however many there are: a statement can't have more than 65,535.
    diesel::sql_query("INSERT INTO symbols (symbol) SELECT unnest($1) ON CONFLICT DO NOTHING")
        .bind::<Array<Text>, _>(names)
        .execute(connection)
        .await
}

/// The decimals of the lots of those of `wanted` that the table holds.
///
/// # Errors
/// The database's.
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

/// A symbol of the history.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = symbols)]
pub struct KnownSymbol {
    /// Its name.
    pub symbol: String,
    /// One lot is `10^-volume_decimals` units.
    pub volume_decimals: i16,
    /// When it was first written.
    pub first_seen: DateTime<Utc>,
}

/// All symbols, by name.
///
/// # Errors
/// The database's.
pub async fn list(connection: &mut AsyncPgConnection) -> QueryResult<Vec<KnownSymbol>> {
    symbols::table
        .select(KnownSymbol::as_select())
        .order(symbols::symbol)
        .load(connection)
        .await
}

/// What [`set_decimals`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rescaled {
    /// Decimals before.
    pub from: u8,
    /// Rows of `candles_1m` that were rewritten.
    pub candles: usize,
    /// Rows of `ticks` that were rewritten.
    pub ticks: usize,
    /// The time of the rewritten candles: the larger timeframes must be refreshed there.
    pub range: Option<TimeRange>,
}

/// Why [`set_decimals`] changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum SetDecimalsError {
    /// There are rows, and the caller did not ask to rewrite them.
    #[error(
        "{symbol} has {candles} candles and {ticks} ticks in lots of {from} decimals; add --rescale to rewrite them"
    )]
    HasRows {
        /// The symbol.
        symbol: Symbol,
        /// Decimals of its lots.
        from: u8,
        /// Its rows in `candles_1m`.
        candles: i64,
        /// Its rows in `ticks`.
        ticks: i64,
    },
    /// The coarser lots can't hold every volume exactly.
    #[error(
        "{inexact} rows of {symbol} hold volumes finer than {to} decimals, and would be changed; use {least} decimals or more; a trade \
         that is too large for {least} decimals stays a dead letter"
    )]
    Inexact {
        /// The symbol.
        symbol: Symbol,
        /// The decimals asked for.
        to: u8,
        /// Rows that rounding would change.
        inexact: i64,
        /// The fewest decimals that hold all of them.
        least: i64,
    },
    /// The finer lots of some row don't fit a bigint.
    #[error("some volumes of {symbol} don't fit a bigint at {to} decimals; use fewer")]
    TooLarge {
        /// The symbol.
        symbol: Symbol,
        /// The decimals asked for.
        to: u8,
    },
    /// The database's.
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

/// Sets what a lot of `symbol` is: `10^-to` units. Rows that exist are rewritten to the same quantities, exactly, if
/// `rescale` says so, and else nothing is changed. Waits for the transactions that hold [`keep_decimals`].
///
/// # Errors
/// When there are rows and `rescale` is false, when the new lots can't hold some volume exactly, or the database's.
pub async fn set_decimals(
    connection: &mut AsyncPgConnection,
    symbol: &Symbol,
    to: u8,
    rescale: bool,
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
            Ok(done)
        })
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

#[derive(QueryableByName)]
struct Inexact {
    #[diesel(sql_type = BigInt)]
    rows: i64,
}

#[derive(QueryableByName)]
struct Least {
    #[diesel(sql_type = BigInt)]
    decimals: i64,
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
        let Inexact { rows: mut inexact } = diesel::sql_query(
            "SELECT (SELECT count(*) FROM candles_1m WHERE symbol = $1 AND volume % ('1e' || -$2)::numeric <> 0)
                  + (SELECT count(*) FROM ticks WHERE symbol = $1 AND lots % ('1e' || -$2)::numeric <> 0) AS rows",
        )
        .bind::<Text, _>(symbol.as_str())
        .bind::<SmallInt, _>(shift)
        .get_result(connection)
        .await?;
        for (table, border_us) in &old {
            let Inexact { rows } = diesel::sql_query(format!(
                "SELECT count(*) AS rows FROM {table} WHERE symbol = $1 AND time < $3 AND volume % ('1e' || -$2)::numeric <> 0"
            ))
            .bind::<Text, _>(symbol.as_str())
            .bind::<SmallInt, _>(shift)
            .bind::<Timestamptz, _>(to_datetime(*border_us))
            .get_result(connection)
            .await?;
            inexact += rows;
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
    let candles = rescale_column(connection, "candles_1m", "volume", symbol, shift).await;
    let ticks = match candles {
        Ok(_) => rescale_column(connection, "ticks", "lots", symbol, shift).await,
        Err(_) => Ok(0),
    };
    match (candles, ticks) {
        (Ok(candles), Ok(ticks)) => Ok((candles, ticks)),
        (Err(error), _) | (_, Err(error)) if crate::postgres::error::sqlstate(&error) == Some("22003") => {
            Err(SetDecimalsError::TooLarge {
                symbol: symbol.clone(),
                to,
            })
        }
        (Err(error), _) | (_, Err(error)) => Err(error.into()),
    }
}

/// The fewest decimals that hold every volume of `symbol` in candles, ticks and the `larger` tables.
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
        let found: Least = diesel::sql_query(format!(
            "SELECT coalesce(max(min_scale({column} * ('1e-' || $2)::numeric)), 0)::bigint AS decimals FROM {table} WHERE symbol = $1"
        ))
        .bind::<Text, _>(symbol.as_str())
        .bind::<SmallInt, _>(i16::from(from))
        .get_result(connection)
        .await?;
        least = least.max(found.decimals);
    }
    Ok(least)
}

/// The tables of the larger timeframes, and up to when each holds candles that can't be computed again, as their minutes were dropped.
async fn candles_without_minutes(connection: &mut AsyncPgConnection) -> QueryResult<Vec<(String, i64)>> {
    let mut found = Vec::new();
    let Some(server) = Server::detect(connection).await? else {
        return Ok(found);
    };
    completeness::notice(connection, server.edition).await?;
    for timeframe in &Timeframe::ALL[1..] {
        let border_us = completeness::first_bucket(connection, Timeframe::M1.table(), *timeframe).await?;
        if border_us > i64::MIN {
            found.push((
                rollups::stored(connection, server.edition, *timeframe).await?,
                border_us,
            ));
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
