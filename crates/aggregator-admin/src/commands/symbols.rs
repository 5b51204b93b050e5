//! `symbols`: the symbols and the decimals of their lots.

use anyhow::Context;
use storage_core::config::Misconfigured;
use storage_core::domain::lots::MAX_VOLUME_DECIMALS;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::rfc3339;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::symbols::{self, SetDecimalsError};
use storage_core::redis;
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
    /// Lists the symbols and the decimals of their lots
    List,
    /// Sets the decimals of a symbol's lots
    Set {
        /// Symbol, which may be new
        symbol: Symbol,
        /// Decimals of a lot, which is 10^-N units: 8 by default, 0 for coins with huge volumes
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(0..=i64::from(MAX_VOLUME_DECIMALS)))]
        volume_decimals: u8,
        /// Rewrites stored candles and ticks to the new lots
        #[arg(long)]
        rescale: bool,
    },
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    match &args.command {
        None | Some(Command::List) => list(config).await,
        Some(Command::Set {
            symbol,
            volume_decimals,
            rescale,
        }) => set(config, symbol, *volume_decimals, *rescale).await,
    }
}

async fn list(config: &Config) -> anyhow::Result<()> {
    let stores = Stores::new(config);
    let (mut connection, _) = history(&stores.pool).await?;
    let known = symbols::list(&mut connection).await.explained("reading the symbols")?;
    if known.is_empty() {
        return say("no symbols yet");
    }
    let mut shown = table(&["symbol", ">volume decimals", "first seen"]);
    for symbol in known {
        let first_seen = rfc3339(symbol.first_seen.timestamp() * 1_000_000);
        shown.add_row([symbol.symbol, symbol.volume_decimals.to_string(), first_seen]);
    }
    say(shown)
}

async fn set(config: &Config, symbol: &Symbol, decimals: u8, rescale: bool) -> anyhow::Result<()> {
    let mut stores = Stores::new(config);
    let (mut connection, server) = history(&stores.pool).await?;
    refuse_other_database(&mut stores.redis, &mut connection).await?;
    let done = symbols::set_decimals(&mut connection, symbol, decimals, rescale)
        .await
        .map_err(|error| match error {
            SetDecimalsError::Database(error) => anyhow::Error::from(error).context("setting a symbol's decimals"),
            refused => Misconfigured::new(refused.to_string()).into(),
        })?;
    redis::symbols::store(&mut stores.redis, symbol, decimals)
        .await
        .context("storing the decimals in Redis for hot-writer; run `aggregator-admin migrate`")?;
    if let Some(range) = done.range {
        refresh::buckets(&mut connection, server.edition, &[range], |_, _| Ok(())).await?;
        let (candles, ticks) = (
            thousands(i128::try_from(done.candles)?),
            thousands(i128::try_from(done.ticks)?),
        );
        say(format_args!(
            "rewrote {candles} candles and {ticks} ticks, and refreshed the larger timeframes"
        ))?;
    }
    match done.from == decimals {
        true => say(format_args!("nothing to do: {symbol} has {decimals} decimals already")),
        false => say(format_args!(
            "{symbol} has {decimals} decimals, instead of {}",
            done.from
        )),
    }
}
