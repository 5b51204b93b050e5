//! What an operator can ask for, a module each.

pub(crate) mod candles;
pub(crate) mod dead_letters;
pub(crate) mod explain;
pub(crate) mod groups;
pub(crate) mod migrate;
pub(crate) mod plan;
pub(crate) mod refresh;
pub(crate) mod repair;
pub(crate) mod status;
pub(crate) mod symbols;
pub(crate) mod verify;

use storage_core::config::layers;
use storage_core::config::telemetry::LogFormat;
use storage_core::telemetry;
use tracing::level_filters::LevelFilter;

use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::run;

/// Loads the configuration and runs the command.
pub(crate) async fn dispatch(cli: Cli) -> anyhow::Result<()> {
    if let Command::CheckConfig = cli.command {
        return layers::check::<Config>(&cli.common);
    }
    let config: Config = layers::load(&cli.common)?;
    if let Command::Run = cli.command {
        return run::run(config).await;
    }
    telemetry::tracing::init(LogFormat::Text, LevelFilter::WARN)?;
    match cli.command {
        Command::CheckConfig | Command::Run => Ok(()),
        Command::Migrate(args) => migrate::run(&config, &args).await,
        Command::Status(args) => status::run(&config, &args).await,
        Command::Refresh(args) => refresh::run(&config, &args).await,
        Command::Candles(args) => candles::run(&config, &args).await,
        Command::Symbols(args) => symbols::run(&config, &args).await,
        Command::DeadLetters(args) => dead_letters::run(&config, &args).await,
        Command::Groups(args) => groups::run(&config, &args).await,
        Command::Plan => plan::plan(&config).await,
        Command::Apply => plan::apply(&config).await,
        Command::Explain(args) => explain::run(&config, &args).await,
        Command::Verify(args) => verify::run(&config, &args).await,
        Command::Repair(args) => repair::run(&config, &args).await,
    }
}
