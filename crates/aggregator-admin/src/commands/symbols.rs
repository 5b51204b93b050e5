//! `symbols`: the symbols, the decimals of their lots, and the prices that they can have.

use anyhow::Context;
use diesel_async::AsyncPgConnection;
use storage_core::config::Misconfigured;
use storage_core::domain::lots::{DEFAULT_VOLUME_DECIMALS, MAX_VOLUME_DECIMALS};
use storage_core::domain::prices::Prices;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::rfc3339;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::symbols::{self, SetDecimalsError};
use storage_core::redis;
use storage_core::redis::connection::Connection;
use storage_core::terminal::{say, table, thousands};

use crate::config::Config;
use crate::rollups::refresh;
use crate::stores::{Stores, history, refuse_other_database};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Lists the symbols with the decimals of their lots and the prices that they can have
    List,
    /// Lists the changes of lots, newest first
    Changes {
        /// Maximum number to list
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Sets the decimals of a symbol's lots, or the prices that it can have
    #[command(group = properties())]
    Set {
        /// Symbol, which may be new
        #[arg(allow_hyphen_values = true)]
        symbol: Symbol,
        /// Decimals of a lot, which is 10^-N units: 8 by default, 0 for coins with huge volumes
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=i64::from(MAX_VOLUME_DECIMALS)))]
        volume_decimals: Option<u8>,
        /// Rewrites stored candles and ticks to the new lots
        #[arg(long, requires = "volume_decimals")]
        rescale: bool,
        /// Prices that the symbol can have: positive (the default), or any, as of spreads, funding rates and power
        #[arg(long, value_name = "PRICES")]
        prices: Option<Prices>,
    },
}

/// Returns the options of which `set` requires at least one.
fn properties() -> clap::ArgGroup {
    let group = clap::ArgGroup::new("properties").required(true).multiple(true);
    group.args(["volume_decimals", "prices"])
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    match &args.command {
        None | Some(Command::List) => list(config).await,
        Some(Command::Changes { limit }) => list_changes(config, *limit).await,
        Some(Command::Set {
            symbol,
            volume_decimals,
            rescale,
            prices,
        }) => set(config, symbol, *volume_decimals, *rescale, *prices).await,
    }
}

async fn list(config: &Config) -> anyhow::Result<()> {
    let stores = Stores::new(config);
    let (mut connection, _) = history(&stores.pool).await?;
    let known = symbols::list(&mut connection).await.explained("reading the symbols")?;
    if known.is_empty() {
        return say("no symbols yet");
    }
    let mut shown = table(&["symbol", ">volume decimals", "prices", "first seen"]);
    for symbol in known {
        let first_seen = rfc3339(symbol.first_seen.timestamp() * 1_000_000);
        let decimals = symbol.volume_decimals.to_string();
        shown.add_row([symbol.symbol, decimals, symbol.prices, first_seen]);
    }
    say(shown)
}

async fn list_changes(config: &Config, limit: u32) -> anyhow::Result<()> {
    let stores = Stores::new(config);
    let (mut connection, _) = history(&stores.pool).await?;
    let changes = symbols::changes(&mut connection, i64::from(limit)).await;
    let changes = changes.explained("reading the changes of lots")?;
    if changes.is_empty() {
        return say("no changes yet");
    }
    let mut shown = table(&["time", "symbol", ">from", ">to", "reason"]);
    for change in changes {
        shown.add_row([
            rfc3339(change.changed_at.timestamp() * 1_000_000),
            change.symbol.to_string(),
            change.from_decimals.to_string(),
            change.to_decimals.to_string(),
            change.reason,
        ]);
    }
    say(shown)
}

async fn set(
    config: &Config,
    symbol: &Symbol,
    decimals: Option<u8>,
    rescale: bool,
    prices: Option<Prices>,
) -> anyhow::Result<()> {
    let mut stores = Stores::new(config);
    let (mut connection, server) = history(&stores.pool).await?;
    refuse_other_database(&mut stores.redis, &mut connection).await?;
    if let Some(decimals) = decimals {
        let done = symbols::set_decimals(&mut connection, symbol, decimals, rescale, "set by an operator")
            .await
            .map_err(|error| match error {
                SetDecimalsError::Database(error) => anyhow::Error::from(error).context("setting a symbol's decimals"),
                refused => Misconfigured::new(refused.to_string()).into(),
            })?;
        copy_to_redis(&mut connection, &mut stores.redis, symbol).await?;
        if let Some(range) = done.range {
            refresh::buckets(&mut connection, server.edition, &[range], |_, _| Ok(())).await?;
            let completed = symbols::complete_changes(&mut connection, symbol).await;
            completed.explained("completing a change of lots")?;
            let (candles, ticks) = (
                thousands(i128::try_from(done.candles)?),
                thousands(i128::try_from(done.ticks)?),
            );
            say(format_args!(
                "rewrote {candles} candles and {ticks} ticks, and refreshed the larger timeframes"
            ))?;
        }
        match done.from == decimals {
            true => say(format_args!("nothing to do: {symbol} has {decimals} decimals already"))?,
            false => say(format_args!(
                "{symbol} has {decimals} decimals, instead of {}",
                done.from
            ))?,
        }
    }
    if let Some(prices) = prices {
        let changed = symbols::set_prices(&mut connection, symbol, prices).await;
        let changed = changed.explained("setting a symbol's prices")?;
        copy_to_redis(&mut connection, &mut stores.redis, symbol).await?;
        match changed {
            true => say(format_args!("{symbol} can have {prices} prices"))?,
            false => say(format_args!("nothing to do: {symbol} can have {prices} prices already"))?,
        }
    }
    Ok(())
}

/// Copies the properties of a symbol to Redis, where hot-writer reads them.
pub(crate) async fn copy_to_redis(
    connection: &mut AsyncPgConnection,
    redis: &mut Connection,
    symbol: &Symbol,
) -> anyhow::Result<()> {
    let decimals = symbols::decimals(connection, &[symbol]).await;
    let decimals = decimals.explained("reading a symbol's decimals")?;
    let any_price = symbols::with_any_price(connection, &[symbol]).await;
    let any_price = any_price.explained("reading a symbol's prices")?;
    let decimals = decimals.get(symbol).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS);
    let prices = if any_price.is_empty() {
        Prices::Positive
    } else {
        Prices::Any
    };
    redis::symbols::store(redis, symbol, decimals, prices)
        .await
        .context("storing the properties of a symbol in Redis for hot-writer; run `aggregator-admin migrate`")
}
