//! The program hot-writer; the worker is the library of the same name.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use hot_writer::config::Config;
use hot_writer::run;
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
        Command::CheckConfig => layers::check::<Config>(&cli.common),
    })
}
