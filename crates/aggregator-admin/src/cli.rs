//! The command line.

use std::time::Duration;

use clap::{Parser, Subcommand};
use storage_core::config::layers::CommonArgs;
use storage_core::domain::time::parse_rfc3339;

use crate::commands;

/// Keeps the history in order: schema, larger timeframes, repairs, compression and retention; shows what is where.
#[derive(Debug, Parser)]
#[command(version, about)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: CommonArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes both stores ready: schema, Redis functions, partitions, consumer groups; says what it did
    Migrate(commands::migrate::Args),
    /// Runs the worker: repairs, rollups and policies, with /metrics, /healthz and /readyz
    Run,
    /// Shows versions, rows, compression, rollups, streams, workers and backups on one screen
    Status(commands::status::Args),
    /// Brings larger timeframes up to date now, smallest first
    Refresh(commands::refresh::Args),
    /// Shows a symbol's candles: history and the one in the making as one series
    Candles(commands::candles::Args),
    /// Lists symbols, and sets what a lot of one is
    Symbols(commands::symbols::Args),
    /// Lists, shows and requeues entries that no worker could use
    DeadLetters(commands::dead_letters::Args),
    /// Lists who reads the streams, and removes a group that nobody reads as any more
    Groups(commands::groups::Args),
    /// Shows which policies differ from the configuration; refuses settings that lose data
    Plan,
    /// Changes the policies to what the configuration says
    Apply,
    /// Shows where a candle comes from: history, Redis, and what its source gives
    Explain(commands::explain::Args),
    /// Compares every candle with what it was made from; exits 1 where one differs
    Verify(commands::verify::Args),
    /// Computes minutes again from their ticks
    Repair(commands::repair::Args),
    /// Prints the effective configuration, secrets masked
    CheckConfig,
}

/// A time in µs since 1970: RFC 3339, or a day in UTC.
pub(crate) fn time(text: &str) -> Result<i64, String> {
    let day = || parse_rfc3339(&format!("{text}T00:00:00Z"));
    parse_rfc3339(text)
        .or_else(|_| day())
        .map_err(|_| "write 2019-10-11T00:00:00Z or 2019-10-11".to_owned())
}

/// A duration such as `30s` or `5m`.
pub(crate) fn duration(text: &str) -> Result<Duration, humantime_serde::re::humantime::DurationError> {
    humantime_serde::re::humantime::parse_duration(text)
}
