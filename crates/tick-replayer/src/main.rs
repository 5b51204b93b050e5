//! tick-replayer, a producer: recorded or generated ticks go into the streams that hot-writer and warm-syncer read.
//!
//! A tick's way: it is read ([`formats`]) or made ([`generate`]), waits for its time ([`pace`]), and is published in
//! batches ([`publish`]); [`feed`] connects the three.

mod commands;
mod config;
mod feed;
mod formats;
mod generate;
mod market;
mod outgoing;
mod pace;
mod publish;

use std::process::ExitCode;

use storage_core::{cli, program};

fn main() -> ExitCode {
    cli::main(program!(), commands::dispatch)
}
