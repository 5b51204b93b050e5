//! warm-syncer: closed candles, ticks, signals and dead letters from the Redis streams to TimescaleDB.
//!
//! A batch goes through the stages in this order: [`read`], [`collect`], [`commit`], [`acknowledge`]. A [`pipeline`] takes one
//! stream through them; what a stream's entries become is in [`kinds`]. An entry is acknowledged only after the transaction that
//! holds it was committed, and every write may be repeated, so being killed at any point only means doing a batch again.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use storage_core::config::layers::{self, CommonArgs};
use storage_core::service;

mod acknowledge;
mod backlog;
mod collect;
mod commit;
mod config;
mod dead_letter;
mod kinds;
mod labels;
mod metrics;
mod outcome;
mod pipeline;
mod read;
mod reconcile;
mod run;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes what the streams hold into TimescaleDB until it is told to stop
    Run,
    /// Prints the effective configuration, secrets masked
    CheckConfig,
}

fn main() -> ExitCode {
    service::main(async |cli: Cli| match cli.command {
        Command::Run => run::run(layers::load(&cli.common)?).await,
        Command::CheckConfig => layers::check::<config::Config>(&cli.common),
    })
}
