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
    /// Makes both stores ready: schema, Redis functions, partitions, consumer groups; says what it did
    Migrate(migrate::Args),
    /// Runs the worker: repairs, rollups and policies, with /metrics, /healthz and /readyz
    Run,
    /// Shows versions, rows, compression, rollups, streams, workers and backups on one screen
    Status(status::Args),
    /// Brings larger timeframes up to date now, smallest first
    Refresh(refresh::Args),
    /// Shows a symbol's candles: history and the one in the making as one series
    Candles(candles::Args),
    /// Lists symbols, and sets what a lot of one is
    Symbols(symbols::Args),
    /// Lists, shows and requeues entries that no worker could use
    DeadLetters(dead_letters::Args),
    /// Lists who reads the streams, and removes a group that nobody reads as any more
    Groups(groups::Args),
    /// Shows which policies differ from the configuration; refuses settings that lose data
    Plan,
    /// Changes the policies to what the configuration says
    Apply,
    /// Shows where a candle comes from: history, Redis, and what its source gives
    Explain(explain::Args),
    /// Compares every candle with what it was made from; exits 1 where one differs
    Verify(verify::Args),
    /// Computes minutes again from their ticks
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
