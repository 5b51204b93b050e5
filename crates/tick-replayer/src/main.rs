//! tick-replayer: publishes recorded or generated ticks on the streams that hot-writer and warm-syncer read.
//!
//! A tick is read ([`formats`]) or generated ([`generate`]), waits until it is due ([`pace`]), and is published in a
//! batch ([`publish`]); [`feed`] connects these stages.

mod commands;
mod config;
mod feed;
mod formats;
mod generate;
mod heartbeats;
mod market;
mod outgoing;
mod pace;
mod publish;
mod row_ids;

use std::process::ExitCode;

use storage_core::{cli, program};

fn main() -> ExitCode {
    cli::main(program!(), commands::dispatch)
}
