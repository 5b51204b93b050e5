//! warm-syncer: writes closed candles, ticks, signals and dead letters from the Redis streams to TimescaleDB.
//!
//! A batch passes the stages in this order: [`read`], [`collect`], [`commit`], [`acknowledge`]. A [`pipeline`] runs
//! them for one stream; [`kinds`] has the rows that its entries become. An entry is acknowledged only after its
//! transaction was committed, and every write may be repeated, so a worker that was killed at any point only repeats a
//! batch.

use std::process::ExitCode;

use storage_core::{cli, program};

use self::config::Config;

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

#[derive(clap::Subcommand)]
enum Command {
    /// Runs the worker until SIGTERM
    Run,
}

fn main() -> ExitCode {
    cli::main(program!(), async |Command::Run, config: Config| run::run(config).await)
}
