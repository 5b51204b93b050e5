//! aggregator-admin: schema, larger timeframes, repairs, compression and retention of the history, and the commands of
//! the operator.

mod adapt;
mod backups;
mod bases;
mod candles;
mod cli;
mod commands;
mod config;
mod dead_letter;
mod gaps;
mod jobs;
mod latest;
mod losses;
mod measure;
mod metrics;
mod minute;
mod pieces;
mod plan;
mod policies;
mod progress;
mod recompute;
mod repairs;
mod requeue;
mod rollups;
mod run;
mod schedule;
mod setup;
mod stores;
mod verify;
mod worker;

use std::process::ExitCode;

use storage_core::program;

fn main() -> ExitCode {
    storage_core::cli::main(program!(), commands::dispatch)
}
