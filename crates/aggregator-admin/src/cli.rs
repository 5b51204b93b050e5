//! The command line.

use std::time::Duration;

use clap::{Parser, Subcommand};
use storage_core::config::layers::CommonArgs;

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
    /// Prints the effective configuration, secrets masked
    CheckConfig,
}

/// A duration such as `30s` or `5m`.
pub(crate) fn duration(text: &str) -> Result<Duration, humantime_serde::re::humantime::DurationError> {
    humantime_serde::re::humantime::parse_duration(text)
}
