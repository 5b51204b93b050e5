//! Serves the partitions that this replica owns.

use anyhow::Result;
use storage_core::redis::connection::Connection;
use storage_core::redis::lost::Losses;
use storage_core::redis::ownership::Ownership;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{HOT_WRITER, Stream};
use storage_core::retry::keep_running;
use storage_core::telemetry::readiness::Readiness;
use tokio_util::sync::CancellationToken;

use crate::age::Ages;
use crate::budget::Budget;
use crate::config::Config;
use crate::metrics;
use crate::partition::Partition;
use crate::share::{adjust, initial_rate};
use crate::trim::trim_partition;

/// Serves this replica's share of the partitions until `token` is cancelled, then releases them.
///
/// # Errors
/// Fails if the number of partitions in Redis has changed. Other failures are retried, and `readiness` reports them.
pub(crate) async fn own(config: Config, readiness: Readiness, losses: Losses, token: CancellationToken) -> Result<()> {
    let budget = Budget::new(initial_rate(config.hot.write_share), config.hot.max_age);
    let ages = Ages::default();
    let ownership = Ownership {
        redis: &config.redis,
        worker: HOT_WRITER,
        instance: config.service.instance(&config.telemetry),
        partitions: config.stream.partitions,
        database: None,
        lease_ttl: config.hot.lease_ttl,
        count: &metrics::PARTITIONS,
    };
    let serve = |partition, token| {
        let (budget, ages) = (budget.clone(), ages.clone());
        serve(
            config.clone(),
            partition,
            (budget, ages),
            readiness.clone(),
            losses.clone(),
            token,
        )
    };
    tokio::select! {
        result = ownership.run(&readiness, &token, serve) => result,
        never = budget.serve() => match never {},
        never = adjust(&config, &budget, &ages) => match never {},
    }
}

async fn serve(
    config: Config,
    partition: u16,
    (budget, ages): (Budget, Ages),
    readiness: Readiness,
    losses: Losses,
    token: CancellationToken,
) {
    let condition = format!("partition {partition}");
    let folding = keep_running(condition.clone(), &readiness, &token, async || {
        metrics::PARTITION_STARTS.increment(1);
        let served = Partition::restore(&config, partition, budget.clone(), ages.clone()).await?;
        readiness.ok(condition.clone());
        served.serve(losses.clone(), &token).await
    });
    let lag = token.run_until_cancelled(watch_lag(&config, partition));
    let trimming = token.run_until_cancelled(trim_partition(&config, partition));
    tokio::join!(folding, lag, trimming);
    readiness.forget(&condition);
    budget.set_waiting(partition, 0);
    losses.release(Stream::Ticks(partition));
    for gauge in [&metrics::SYMBOLS, &metrics::CANDLES_AWAITED] {
        gauge.set(&partition.to_string(), 0.0);
    }
}

/// Measures the lag periodically. While Redis does not answer, the last value remains.
async fn watch_lag(config: &Config, partition: u16) {
    let mut conn = Connection::ordinary(&config.redis);
    loop {
        if let Ok(Some(position)) = position_of(&mut conn, Stream::Ticks(partition), HOT_WRITER).await {
            let lag = position.lag.unwrap_or_default();
            metrics::LAG.set(
                &partition.to_string(),
                f64::from(u32::try_from(lag).unwrap_or(u32::MAX)),
            );
        }
        tokio::time::sleep(config.hot.lease_ttl / 5).await;
    }
}
