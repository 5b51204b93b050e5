//! What an operator can ask for, a module each.

pub(crate) mod migrate;

use storage_core::config::layers;
use storage_core::config::telemetry::LogFormat;
use storage_core::telemetry;
use tracing::level_filters::LevelFilter;

use crate::cli::{Cli, Command};
use crate::config::Config;

/// Loads the configuration and runs the command.
pub(crate) async fn dispatch(cli: Cli) -> anyhow::Result<()> {
    if let Command::CheckConfig = cli.command {
        return layers::check::<Config>(&cli.common);
    }
    let config: Config = layers::load(&cli.common)?;
    telemetry::tracing::init(LogFormat::Text, LevelFilter::WARN)?;
    match cli.command {
        Command::CheckConfig => Ok(()),
        Command::Migrate(args) => migrate::run(&config, &args).await,
    }
}
