//! `migrate`: makes both stores ready for this version. Every step looks first, so running it again changes nothing.

use std::time::Duration;

use anyhow::Context;
use storage_core::config::Misconfigured;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::postgres::connection::connect;
use storage_core::postgres::migrations;
use storage_core::postgres::queries;
use storage_core::redis::connection::Connection;
use storage_core::redis::hot;
use storage_core::redis::stream::{HOT_WRITER, WARM_SYNCER};
use storage_core::redis::symbols::{self, VolumeDecimals};
use storage_core::redis::{lease, partitions};

use crate::cli::duration;
use crate::config::Config;
use crate::setup;
use crate::stores::{Explained, Stores, await_redis, history, patiently};
use crate::terminal::say;

/// What the migration's connection shows.
const APPLICATION: &str = "aggregator-admin migrate";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of partitions of the tick and candle streams; another one than Redis holds needs drained streams and stopped
    /// hot-writers [default: what Redis holds, else `stream.partitions`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    partitions: Option<u16>,
    /// How long to wait for servers that do not answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    wait: Duration,
    /// Takes the schema away, and the whole history with it; Redis stays as it is
    #[arg(long, conflicts_with = "partitions")]
    down: bool,
    /// Confirms --down
    #[arg(long, requires = "down")]
    yes: bool,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    if args.down {
        return down(config, args).await;
    }
    await_redis(&config.redis, args.wait).await?;
    let mut changes = schema(config, args.wait).await?;
    let mut stores = Stores::new(config);
    let redis = &mut stores.redis;
    changes += load_functions(redis).await?;
    let (partitions, changed) = store_partitions(redis, config.stream.partitions, args.partitions).await?;
    changes += changed;
    changes += create_groups(redis, partitions).await?;
    let (mut connection, server) = history(&stores.pool).await?;
    let known = queries::symbols::list(&mut connection)
        .await
        .explained("reading the symbols")?;
    changes += synchronise_symbols(&mut stores.redis, &known).await?;
    // Where the history is empty too, the Redis is new, and not one that was emptied.
    if known.is_empty() {
        for partition in 0..partitions {
            let note = hot::nothing_lost(partition);
            note.exec_async(&mut stores.redis)
                .await
                .context("noting that no candle was lost")?;
        }
    }
    if changes == 0 {
        say("nothing to do")?;
    }
    say(format_args!(
        "ready: PostgreSQL {} with TimescaleDB {} ({}), {partitions} partitions",
        server.postgres_version, server.timescale_version, server.edition
    ))
}

async fn down(config: &Config, args: &Args) -> anyhow::Result<()> {
    if !args.yes {
        return Err(Misconfigured::new("--down removes the whole history; add --yes if that is what you want").into());
    }
    let gone = patiently(args.wait, "PostgreSQL", async || {
        Ok(migrations::revert_all(connect(&config.postgres, APPLICATION).await?).await?)
    })
    .await?;
    if gone.is_empty() {
        return say("nothing to do");
    }
    gone.iter().try_for_each(|name| say(format_args!("reverted {name}")))
}

async fn schema(config: &Config, wait: Duration) -> anyhow::Result<usize> {
    let done = patiently(wait, "PostgreSQL", async || {
        Ok(migrations::run(connect(&config.postgres, APPLICATION).await?).await?)
    })
    .await?;
    done.iter()
        .try_for_each(|name| say(format_args!("schema: ran {name}")))?;
    Ok(done.len())
}

async fn load_functions(redis: &mut Connection) -> anyhow::Result<usize> {
    let loaded = setup::load_functions(redis).await?;
    if let Some(loaded) = &loaded {
        say(format_args!("functions: {loaded}"))?;
    }
    Ok(usize::from(loaded.is_some()))
}

async fn store_partitions(redis: &mut Connection, configured: u16, asked: Option<u16>) -> anyhow::Result<(u16, usize)> {
    let stored = partitions::stored(redis)
        .await
        .context("reading the number of partitions")?;
    let Some(stored) = stored else {
        let wanted = asked.unwrap_or(configured);
        let stored = partitions::store_once(redis, wanted)
            .await
            .context("storing the number of partitions")?;
        partitions::check(Some(stored), wanted)?;
        say(format_args!("partitions: {stored}"))?;
        return Ok((stored, 1));
    };
    let Some(wanted) = asked else {
        partitions::check(Some(stored), configured)?;
        return Ok((stored, 0));
    };
    if wanted == stored {
        return Ok((stored, 0));
    }
    let mut obstacles = partitions::unfinished(redis, stored)
        .await
        .context("looking for unfinished entries")?;
    for worker in [HOT_WRITER, WARM_SYNCER] {
        let holders = lease::holders(redis, worker, stored)
            .await
            .with_context(|| format!("looking for {worker}s"))?;
        if holders.iter().any(Option::is_some) {
            obstacles.push(format!("{worker}s are running"));
        }
    }
    if !obstacles.is_empty() {
        let obstacles = obstacles.join(", ");
        anyhow::bail!(
            "partitions stays {stored}: {obstacles}; stop the producers, let the workers finish, and stop hot-writers and warm-syncers"
        );
    }
    partitions::replace(redis, stored, wanted)
        .await
        .context("storing the number of partitions")?;
    say(format_args!(
        "partitions: {wanted} instead of {stored}; give every worker `stream.partitions = {wanted}`"
    ))?;
    Ok((wanted, 1))
}

async fn create_groups(redis: &mut Connection, partitions: u16) -> anyhow::Result<usize> {
    let created = setup::create_groups(redis, partitions).await?.len();
    if created > 0 {
        say(format_args!("consumer groups: created {created}"))?;
    }
    Ok(created)
}

/// PostgreSQL decides what a lot is; hot-writers read it from Redis.
async fn synchronise_symbols(redis: &mut Connection, known: &[queries::symbols::KnownSymbol]) -> anyhow::Result<usize> {
    let in_redis = VolumeDecimals::load(redis)
        .await
        .context("reading the symbols' decimals")?;
    let wanted = |name: &str| {
        known
            .iter()
            .find(|symbol| symbol.symbol == name)
            .and_then(|symbol| u8::try_from(symbol.volume_decimals).ok())
    };
    let mut changed = 0;
    let names = known
        .iter()
        .map(|symbol| symbol.symbol.as_str())
        .chain(in_redis.iter().map(|(name, _)| name));
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let Ok(symbol) = name.parse() else { continue };
        let decimals = wanted(name).unwrap_or(DEFAULT_VOLUME_DECIMALS);
        if in_redis.of(&symbol) != decimals {
            symbols::store(redis, &symbol, decimals)
                .await
                .context("storing a symbol's decimals")?;
            say(format_args!("symbols: {symbol} has {decimals} decimals"))?;
            changed += 1;
        }
    }
    Ok(changed)
}
