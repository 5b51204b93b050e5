//! The start of the worker and its tasks.

use anyhow::Result;
use storage_core::program;
use storage_core::redis::lost::Losses;
use storage_core::startup::{REDIS, Startup};

use crate::config::Config;
use crate::{metrics, ownership, signals};

/// Runs the worker until SIGTERM.
///
/// # Errors
/// If the configuration does not fit Redis, or a task fails.
pub async fn run(config: Config) -> Result<()> {
    let metrics = metrics::DEFINITIONS;
    let startup = Startup::begin(&program!(), &config.service, &config.telemetry, metrics, [REDIS]).await?;
    startup.check_redis(&config.redis, config.stream.partitions).await?;

    let Startup { mut service, readiness } = startup;
    let token = service.token();
    let losses = Losses::new(&metrics::LOST_ENTRIES, &readiness);
    service.spawn(
        "partitions",
        ownership::own(config.clone(), readiness.clone(), losses.clone(), token.clone()),
    );
    service.spawn("signals", signals::activate(config, readiness, losses, token));
    service.run().await
}
