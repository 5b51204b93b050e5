//! The commands, a module each.

pub(crate) mod candles;
pub(crate) mod dead_letters;
pub(crate) mod explain;
pub(crate) mod groups;
pub(crate) mod migrate;
pub(crate) mod plan;
pub(crate) mod refresh;
pub(crate) mod repair;
pub(crate) mod status;
pub(crate) mod symbols;
pub(crate) mod verify;

use storage_core::config::telemetry::LogFormat;
use storage_core::telemetry;
use tracing::level_filters::LevelFilter;

use crate::config::Config;
use crate::run;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Prepares both stores: schema, Redis functions, partitions and consumer groups
    Migrate(migrate::Args),
    /// Runs the worker: repairs, rollups and policies, with /metrics, /healthz and /readyz
    Run,
    /// Shows versions, tables, compression, rollups, streams, workers and backups
    Status(status::Args),
    /// Recomputes larger timeframes, smallest first
    Refresh(refresh::Args),
    /// Shows a symbol's candles: history and open candle as one series
    Candles(candles::Args),
    /// Lists symbols and sets the decimals of their lots
    Symbols(symbols::Args),
    /// Lists, shows and requeues entries that no worker could use
    DeadLetters(dead_letters::Args),
    /// Lists the consumer groups of the streams and removes unused ones
    Groups(groups::Args),
    /// Shows the policies that differ from the configuration, and refuses settings that lose data
    Plan,
    /// Changes the policies to the configuration
    Apply,
    /// Shows a candle in the history and in Redis, and as its source gives it
    Explain(explain::Args),
    /// Compares every candle with its source; exits 1 if one differs
    Verify(verify::Args),
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
        Command::Symbols(args) => symbols::run(&config, &args).await,
        Command::DeadLetters(args) => dead_letters::run(&config, &args).await,
        Command::Groups(args) => groups::run(&config, &args).await,
        Command::Plan => plan::plan(&config).await,
        Command::Apply => plan::apply(&config).await,
        Command::Explain(args) => explain::run(&config, &args).await,
        Command::Verify(args) => verify::run(&config, &args).await,
        Command::Repair(args) => repair::run(&config, &args).await,
    }
}
