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

use clap::{Parser, Subcommand};
use storage_core::config::layers::{self, CommonArgs};
use storage_core::service;

/// Puts recorded or generated ticks into the ingress streams
///
/// The number of partitions is read from Redis, where `aggregator-admin migrate` stored it. While Redis is away or full,
/// the replayer waits; a batch whose outcome is unknown is sent again, and trade ids keep the pipeline from counting
/// its ticks twice.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Replays a file of recorded trades
    ///
    /// Ticks keep the event time that the file records. Replaying a file twice, or from the start again, changes nothing
    /// where its trades have ids. SIGTERM or SIGINT ends the replay after the batch that was begun, with exit code 0;
    /// the last line says how far it came.
    Replay(commands::replay::Args),
    /// Generates ticks by a seeded random walk
    ///
    /// Prices walk on a grid, volumes come in clusters and follow the time of day, and some symbols are traded far more
    /// than others. The same options, --start included, give the same ticks. Trade ids count up from the start's time in
    /// µs, so that two runs don't take each other's.
    Generate(commands::generate::Args),
    /// Prints the effective configuration, secrets masked
    CheckConfig,
}

fn main() -> ExitCode {
    service::main(async |cli: Cli| match cli.command {
        Command::Replay(args) => commands::replay::run(args, layers::load(&cli.common)?).await,
        Command::Generate(args) => commands::generate::run(args, layers::load(&cli.common)?).await,
        Command::CheckConfig => layers::check::<config::Config>(&cli.common),
    })
}
