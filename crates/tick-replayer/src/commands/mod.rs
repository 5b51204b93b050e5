//! Commands of tick-replayer.

pub(crate) mod generate;
pub(crate) mod replay;

use ::tracing::level_filters::LevelFilter;
use storage_core::config::telemetry::LogFormat;
use storage_core::service::Service;
use storage_core::telemetry::tracing;

use crate::config::Config;

/// Publishes recorded or generated ticks on the ingress streams
///
/// The number of partitions is read from Redis, where `aggregator-admin migrate` stored it. While Redis is down or
/// full, tick-replayer waits. A batch with an unknown outcome is sent again; trade IDs keep its ticks from counting
/// twice.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Replays a file of recorded trades
    ///
    /// Ticks keep the event time of the recording. Replaying a file again changes nothing if its trades have IDs.
    /// SIGTERM or SIGINT ends the replay after the current batch with exit code 0; the last line of the output reports
    /// the number of ticks and the event time that were reached.
    Replay(replay::Args),
    /// Generates ticks by a seeded random walk
    ///
    /// Prices move on a grid, volumes come in clusters and follow the time of day, and some symbols are traded far more
    /// than others. The same options, including --start, give the same ticks. Trade IDs count up from the start time in
    /// µs, so that two runs have different ones.
    Generate(generate::Args),
}

/// Runs the command.
pub(crate) async fn dispatch(command: Command, config: Config) -> anyhow::Result<()> {
    tracing::init(LogFormat::default(), LevelFilter::WARN)?;
    let token = Service::new(&config.service)?.token();
    match command {
        Command::Replay(args) => replay::run(args, &config.redis, &token).await,
        Command::Generate(args) => generate::run(args, &config.redis, &token).await,
    }
}
