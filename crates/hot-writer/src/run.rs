//! The worker: what must be true before it starts, and the tasks that it is made of.

use anyhow::Result;
use storage_core::redis::lost::Losses;
use storage_core::redis::startup;
use storage_core::retry::Retry;
use storage_core::service::Service;
use storage_core::telemetry;
use storage_core::telemetry::readiness::Readiness;
use tracing::level_filters::LevelFilter;

use crate::config::Config;
use crate::{metrics, ownership, signals};

/// Runs until SIGTERM.
///
/// # Errors
/// When the configuration does not fit what Redis holds, or a task fails.
pub async fn run(config: Config) -> Result<()> {
    telemetry::tracing::init(config.telemetry.log_format, LevelFilter::INFO)?;
    let mut service = Service::new(&config.service)?;
    let token = service.token();
    let readiness = Readiness::waiting_for(["redis"]);
    telemetry::serve(
        &mut service,
        &config.telemetry,
        "hot_writer",
        env!("CARGO_PKG_VERSION"),
        &[metrics::DEFINITIONS],
        &readiness,
    )
    .await?;

    let retry = Retry::new("checking what Redis holds", &token)
        .readiness(&readiness, "redis")
        .permanent_if(startup::is_permanent);
    retry
        .run(|| startup::check(&config.redis, config.stream.partitions))
        .await?;

    let losses = Losses::new(&metrics::LOST_ENTRIES, &readiness);
    service.spawn(
        "partitions",
        ownership::own(config.clone(), readiness.clone(), losses.clone(), token.clone()),
    );
    service.spawn("signals", signals::activate(config, readiness, losses, token));
    service.run().await
}
