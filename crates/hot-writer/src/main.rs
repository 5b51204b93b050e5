//! hot-writer: folds ticks into the hot view in Redis.
//!
//! The way of a tick, in the order of the modules: a copy owns partitions (`ownership`) and serves each (`partition`): takes up what is
//! there (`restore`), reads the stream and decodes what it reads (`read`, `decode`), leaves out what it has seen (`dedup`), folds the
//! rest into candles (`fold`), closes what is over (`close`), and, at its own pace (`pace`), writes the result (`write`). `signals` does the same for signals, `trim` takes away what everybody has
//! finished.

mod close;
mod config;
mod decode;
mod dedup;
mod fold;
mod frame;
mod metrics;
mod ownership;
mod pace;
mod partition;
mod read;
mod restore;
mod run;
mod signals;
mod trim;
mod write;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use storage_core::config::layers::{self, CommonArgs};
use storage_core::service;

/// Folds ticks into the hot view in Redis: latest ticks, candles in the making, active signals
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
    /// Runs the worker until SIGTERM
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
