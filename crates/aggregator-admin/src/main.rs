//! Keeps the history in order: schema, larger timeframes, repairs, compression and retention, and shows an operator
//! what is where.

mod backups;
mod bases;
mod candles;
mod cli;
mod commands;
mod config;
mod dead_letter;
mod measure;
mod metrics;
mod minute;
mod plan;
mod policies;
mod progress;
mod recompute;
mod repairs;
mod rollups;
mod run;
mod setup;
mod stores;
mod terminal;

use std::process::ExitCode;

use storage_core::service;

fn main() -> ExitCode {
    service::main(async |cli: cli::Cli| commands::dispatch(cli).await)
}
