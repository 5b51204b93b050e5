//! `migrate`: prepares both stores for this version. Every step checks first, so a second run changes nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use diesel_async::AsyncPgConnection;
use humantime_serde::re::humantime::parse_duration;
use storage_core::config::Misconfigured;
use storage_core::domain::database_identity::DatabaseIdentity;
use storage_core::domain::lots::DEFAULT_VOLUME_DECIMALS;
use storage_core::postgres::connection::connect;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::Explained;
use storage_core::postgres::migrations::{self, Goal, Migrated};
use storage_core::postgres::queries::rollups::ALWAYS;
use storage_core::postgres::queries::symbols::KnownSymbol;
use storage_core::postgres::queries::{self, completeness, identity, policies};
use storage_core::postgres::{drift, known_versions};
use storage_core::redis::connection::Connection;
use storage_core::redis::hot;
use storage_core::redis::stream::WARM_SYNCER;
use storage_core::redis::symbols::{self, SymbolProperties};
use storage_core::redis::{database, lease, partitions, preflight};
use storage_core::startup::differing_clocks;
use storage_core::terminal::say;

use crate::config::Config;
use crate::rollups::refresh;
use crate::setup;
use crate::stores::{self, PAUSE, Stores, await_redis, history, retry_within};

/// `application_name` of the migration's connection.
const APPLICATION: &str = "aggregator-admin migrate";

/// Arguments that have no meaning for the schema alone.
const SCHEMA_CONFLICTS: [&str; 4] = ["partitions", "adopt_database", "accept_schema", "down"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Number of partitions of the tick and candle streams; a change needs drained streams and stopped workers
    /// [default: the number in Redis, else `stream.partitions`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    partitions: Option<u16>,
    /// Time to wait for a server that does not answer
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    wait: Duration,
    /// Connects Redis to this database instead of the one that it belongs to, after a restore or a move; needs stopped
    /// workers
    #[arg(long, conflicts_with = "down")]
    adopt_database: bool,
    /// Records the present schema as the right one, after an intended change by hand
    #[arg(long, conflicts_with = "down")]
    accept_schema: bool,
    /// Removes the schema and the whole history; Redis is kept and belongs to no database afterwards
    #[arg(long, conflicts_with = "partitions", group = "reverts")]
    down: bool,
    /// Migrates the schema up or down to this migration, and does nothing else; to go down needs stopped workers and
    /// drops what the later migrations added
    #[arg(long, value_name = "MIGRATION", conflicts_with_all = SCHEMA_CONFLICTS, group = "reverts")]
    to: Option<String>,
    /// Runs the migrations of the schema and undoes them: shows their names and the tables that they lock. It takes
    /// the locks, gives up where it would wait for one for more than 2 s, and changes nothing
    #[arg(long, conflicts_with_all = SCHEMA_CONFLICTS)]
    dry_run: bool,
    /// Confirms --down, and a --to that goes down
    #[arg(long, requires = "reverts")]
    yes: bool,
}

pub(crate) async fn run(config: &Config, args: &Args) -> anyhow::Result<()> {
    if args.down {
        return down(config, args).await;
    }
    await_redis(&config.redis, args.wait).await?;
    preflight::check(&config.redis).await?;
    let mut stores = Stores::new(config);
    let redis = &mut stores.redis;
    // Comes before the first change, because the configured database may be the wrong one.
    compare_databases(config, args, redis).await?;
    let migrated = schema(config, args).await?;
    if args.dry_run || args.to.is_some() {
        return Ok(());
    }
    let mut changes = migrated.run.len();
    changes += load_functions(redis).await?;
    let (partitions, changed) = store_partitions(redis, config.stream.partitions, args.partitions).await?;
    changes += changed;
    changes += create_groups(redis, partitions).await?;
    let (mut connection, server) = history(&stores.pool).await?;
    if args.accept_schema {
        drift::accept(&mut connection).await.explained("recording the schema")?;
        say("schema: recorded as it is")?;
        changes += 1;
    }
    let compression = policies::make_compression_wait(&mut connection, server.edition)
        .await
        .explained("changing the compression jobs")?;
    if compression > 0 {
        say("compression jobs: they wait for writers of the same chunk")?;
        changes += 1;
    }
    let drift = drift::find(&mut connection).await.explained("comparing the schema")?;
    changes += record_database(&mut stores.redis, &mut connection, args.adopt_database).await?;
    let known = queries::symbols::list(&mut connection)
        .await
        .explained("reading the symbols")?;
    changes += synchronise_symbols(&mut stores.redis, &known).await?;
    // A table that is missing could not be read.
    if drift.is_empty() {
        record_dropped_chunks(&mut connection, server.edition).await?;
    }
    // A database of the Apache edition was moved: its larger candles are invisible until they are refreshed.
    if !known.is_empty() && migrated.run.iter().any(|name| name == migrations::AGGREGATES) {
        let refreshed = |timeframe, _| say(format_args!("{timeframe} candles: moved to a continuous aggregate"));
        refresh::buckets(&mut connection, server.edition, &[ALWAYS], refreshed)
            .await
            .context("the schema was moved; run `aggregator-admin refresh --all`")?;
    }
    // If the history is empty, Redis is new and has lost nothing; otherwise it may have been emptied.
    if known.is_empty() {
        for partition in 0..partitions {
            let note = hot::complete_from_start(partition);
            note.exec_async(&mut stores.redis)
                .await
                .context("recording that no candle was lost")?;
        }
    }
    if changes == 0 {
        say("nothing to do")?;
    }
    let risks = identity::risks(&mut connection)
        .await
        .explained("reading the server's settings")?;
    let differing = differing_clocks(&mut connection, &mut stores.redis).await?;
    let privileges = drift::missing_privileges(&mut connection)
        .await
        .explained("reading the privileges")?;
    known_versions::faults(&server)
        .iter()
        .chain(&risks)
        .chain(&differing)
        .chain(&privileges)
        .try_for_each(|warning| say(format_args!("warning: {warning}")))?;
    anyhow::ensure!(drift.is_empty(), "the schema was changed by hand: {}", drift.join("; "));
    say(format_args!(
        "ready: PostgreSQL {} with TimescaleDB {} ({}), {partitions} partitions",
        server.postgres_version, server.timescale_version, server.edition
    ))
}

/// Fills `complete_since` for a history that is older than the table.
async fn record_dropped_chunks(connection: &mut AsyncPgConnection, edition: Edition) -> anyhow::Result<()> {
    let doing = "recording dropped chunks";
    completeness::update_borders(connection, edition)
        .await
        .explained(doing)?;
    completeness::advance_to_chunks(connection, edition, "ticks")
        .await
        .explained(doing)
}

async fn down(config: &Config, args: &Args) -> anyhow::Result<()> {
    if !args.yes {
        return Err(Misconfigured::new("--down removes the whole history; add --yes to confirm").into());
    }
    await_redis(&config.redis, args.wait).await?;
    let mut redis = Connection::ordinary(&config.redis);
    let found = found_database(config, args.wait).await?;
    let gone = retry_within(args.wait, "PostgreSQL", async || {
        Ok(migrations::revert_all(connect(&config.postgres, APPLICATION).await?).await?)
    })
    .await?;
    if found.is_some() && stored_database(&mut redis).await? == found {
        database::forget(&mut redis)
            .await
            .context("recording that Redis belongs to no database")?;
    }
    if gone.is_empty() {
        return say("nothing to do");
    }
    gone.iter().try_for_each(|name| say(format_args!("reverted {name}")))
}

/// Migrates the schema as `args` say, and prints what was done.
async fn schema(config: &Config, args: &Args) -> anyhow::Result<Migrated> {
    let goal = Goal {
        to: args.to.clone(),
        may_revert: args.yes || args.dry_run,
        dry_run: args.dry_run,
    };
    let done = retry_within(args.wait, "PostgreSQL", async || {
        Ok(migrations::reach(connect(&config.postgres, APPLICATION).await?, goal.clone()).await?)
    })
    .await?;
    let [reverted, ran] = match args.dry_run {
        true => ["would revert", "would run"],
        false => ["reverted", "ran"],
    };
    for (what, names) in [(reverted, &done.reverted), (ran, &done.run)] {
        names
            .iter()
            .try_for_each(|name| say(format_args!("schema: {what} {name}")))?;
    }
    if args.dry_run {
        for (what, tables) in [("reads and writes", &done.locked), ("writes", &done.locked_for_writes)] {
            if !tables.is_empty() {
                say(format_args!("locks against {what}: {}", tables.join(", ")))?;
            }
        }
    }
    if (args.dry_run || args.to.is_some()) && done == Migrated::default() {
        say("nothing to do")?;
    }
    Ok(done)
}

/// Reads the identity of the configured database; `None` before its first migration.
async fn found_database(config: &Config, wait: Duration) -> anyhow::Result<Option<DatabaseIdentity>> {
    retry_within(wait, "PostgreSQL", async || {
        let mut connection = connect(&config.postgres, APPLICATION).await?;
        identity::identity_if_migrated(&mut connection)
            .await
            .explained("reading the database's identity")
    })
    .await
}

async fn stored_database(redis: &mut Connection) -> anyhow::Result<Option<DatabaseIdentity>> {
    database::stored(redis)
        .await
        .context("reading the database that Redis belongs to")
}

/// Refuses a database other than the one that Redis belongs to, unless `--adopt-database` is given and no worker is
/// running.
async fn compare_databases(config: &Config, args: &Args, redis: &mut Connection) -> anyhow::Result<()> {
    let Some(stored) = stored_database(redis).await? else {
        return Ok(());
    };
    let found = found_database(config, args.wait).await?;
    if found.as_ref() == Some(&stored) {
        return Ok(());
    }
    if !args.adopt_database {
        let found = found.unwrap_or_else(|| DatabaseIdentity::new("without a schema"));
        return Ok(database::check(Some(&stored), &found)?);
    }
    await_end_of_warm_syncers(redis, args.wait)
        .await
        .with_context(|| format!("Redis still belongs to database {stored}"))
}

/// Waits until the leases of stopped warm-syncers expire, also those that were restored with Redis. Rows that a running
/// warm-syncer commits to its database would be missing in the adopted one.
async fn await_end_of_warm_syncers(redis: &mut Connection, wait: Duration) -> anyhow::Result<()> {
    let partitions = partitions::stored(redis)
        .await
        .context("reading the number of partitions")?
        .unwrap_or_default();
    let begin = Instant::now();
    loop {
        let holders = lease::holders(redis, WARM_SYNCER, partitions)
            .await
            .context("reading the leases of warm-syncer")?;
        if holders.iter().all(Option::is_none) {
            return Ok(());
        }
        anyhow::ensure!(
            begin.elapsed() < wait,
            "warm-syncers are running; stop them, then repeat the command"
        );
        tokio::time::sleep(PAUSE).await;
    }
}

async fn record_database(
    redis: &mut Connection,
    connection: &mut AsyncPgConnection,
    adopt: bool,
) -> anyhow::Result<usize> {
    let found = identity::identity(connection)
        .await
        .explained("reading the database's identity")?;
    let before = stored_database(redis).await?;
    if before.as_ref() == Some(&found) {
        return Ok(0);
    }
    let recording = "recording the database in Redis";
    if adopt {
        database::replace(redis, &found).await.context(recording)?;
    } else {
        let stored = database::store_once(redis, &found).await.context(recording)?;
        database::check(Some(&stored), &found)?;
    }
    say(match before {
        Some(before) => format!("database: {found} instead of {before}"),
        None => format!("database: {found}"),
    })?;
    Ok(1)
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
        .context("looking for unread entries")?;
    let running = stores::running(redis, stored).await?;
    obstacles.extend(running.iter().map(|worker| format!("{worker}s are running")));
    if !obstacles.is_empty() {
        let obstacles = obstacles.join(", ");
        anyhow::bail!(
            "partitions stays {stored}: {obstacles}; stop the producers, wait until the workers have read all entries, \
             stop hot-writers and warm-syncers, then repeat the command"
        );
    }
    partitions::replace(redis, stored, wanted)
        .await
        .context("storing the number of partitions")?;
    say(format_args!(
        "partitions: {wanted} instead of {stored}; set `stream.partitions = {wanted}` for every worker before its start"
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

/// Copies the properties of the symbols from PostgreSQL to Redis, where hot-writer reads them.
async fn synchronise_symbols(redis: &mut Connection, known: &[KnownSymbol]) -> anyhow::Result<usize> {
    let in_redis = SymbolProperties::load(redis)
        .await
        .context("reading the properties of symbols")?;
    let stored: HashMap<&str, &KnownSymbol> = known.iter().map(|known| (known.symbol.as_str(), known)).collect();
    let mut changed = 0;
    let names = stored.keys().copied().chain(in_redis.names());
    let mut names: Vec<&str> = names.collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let Ok(symbol) = name.parse() else { continue };
        let decimals = stored
            .get(name)
            .and_then(|known| u8::try_from(known.volume_decimals).ok());
        let decimals = decimals.unwrap_or(DEFAULT_VOLUME_DECIMALS);
        let prices = stored.get(name).map(|known| known.prices()).unwrap_or_default();
        if (in_redis.decimals(&symbol), in_redis.prices(&symbol)) != (decimals, prices) {
            symbols::store(redis, &symbol, decimals, prices)
                .await
                .context("storing the properties of a symbol")?;
            say(format_args!(
                "symbols: {symbol} has {decimals} decimals and {prices} prices"
            ))?;
            changed += 1;
        }
    }
    Ok(changed)
}
