//! The commands, a module each.

pub(crate) mod candles;
pub(crate) mod dead_letters;
pub(crate) mod explain;
pub(crate) mod gaps;
pub(crate) mod groups;
pub(crate) mod migrate;
pub(crate) mod plan;
pub(crate) mod queries;
pub(crate) mod refresh;
pub(crate) mod repair;
pub(crate) mod status;
pub(crate) mod symbols;
pub(crate) mod ticks;
pub(crate) mod verify;

use storage_core::config::telemetry::LogFormat;
use storage_core::telemetry;
use tracing::level_filters::LevelFilter;

use crate::config::Config;
use crate::run;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Sets up both stores: schema, Redis functions, partitions, consumer groups; prints each change
    Migrate(migrate::Args),
    /// Runs the worker until SIGTERM: repairs, rollups and policies
    Run,
    /// Shows versions, rows, compression, rollups, streams, workers and backups on one screen
    Status(status::Args),
    /// Refreshes larger timeframes now, smallest first
    Refresh(refresh::Args),
    /// Shows the candles of a symbol: the history and the open candle as one series
    Candles(candles::Args),
    /// Lists trades with their versions; `bust` and `correct` change one
    Ticks(ticks::Args),
    /// Lists symbols, and sets the volume decimals of one
    Symbols(symbols::Args),
    /// Lists, shows and requeues entries that a worker rejected
    DeadLetters(dead_letters::Args),
    /// Lists the groups of the streams, and removes a group without readers
    Groups(groups::Args),
    /// Shows the policies that differ from the configuration; refuses settings that lose data
    Plan,
    /// Changes the policies to match the configuration
    Apply,
    /// Shows a candle in the history and in Redis, and compares it with its source
    Explain(explain::Args),
    /// Explains how the queries of workers and commands, or a given one, read the history; lists slow ones
    Queries(queries::Args),
    /// Compares every candle with its source; exits 1 if one differs
    Verify(verify::Args),
    /// Tells which minutes of a symbol were traded, quiet, missing or not expected; exits 1 if some are missing
    Gaps(gaps::Args),
    /// Recomputes minutes from their ticks
    Repair(repair::Args),
}

/// Runs the command.
pub(crate) async fn dispatch(command: Command, config: Config) -> anyhow::Result<()> {
    if let Command::Run = command {
        return run::run(config).await;
    }
    telemetry::tracing::init(LogFormat::Text, LevelFilter::WARN)?;
    match command {
        Command::Run => Ok(()),
        Command::Migrate(args) => migrate::run(&config, &args).await,
        Command::Status(args) => status::run(&config, &args).await,
        Command::Refresh(args) => refresh::run(&config, &args).await,
        Command::Candles(args) => candles::run(&config, &args).await,
        Command::Ticks(args) => ticks::run(&config, args).await,
        Command::Symbols(args) => symbols::run(&config, &args).await,
        Command::DeadLetters(args) => dead_letters::run(&config, &args).await,
        Command::Groups(args) => groups::run(&config, &args).await,
        Command::Plan => plan::run(&config, false).await,
        Command::Apply => plan::run(&config, true).await,
        Command::Explain(args) => explain::run(&config, &args).await,
        Command::Queries(args) => queries::run(&config, &args).await,
        Command::Verify(args) => verify::run(&config, &args).await,
        Command::Gaps(args) => gaps::run(&config, &args).await,
        Command::Repair(args) => repair::run(&config, &args).await,
    }
}
