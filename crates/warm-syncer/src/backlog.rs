//! Watches how far the group has come, and whether PostgreSQL answers, also while nothing is to do.

use std::time::Duration;

use redis::RedisResult;
use storage_core::postgres::pool::Pool;
use storage_core::redis::connection::Connection;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use storage_core::telemetry::readiness::Readiness;
use tokio::time::sleep;

use crate::kinds::{KINDS, label};
use crate::metrics;

const INTERVAL: Duration = Duration::from_secs(3);

/// Looks again and again, until it is aborted.
pub(crate) async fn watch(
    mut redis: Connection,
    pool: Pool,
    streams: Vec<Stream>,
    readiness: Readiness,
) -> anyhow::Result<()> {
    loop {
        // Whether Redis answers is what sharing the partitions tells. Without an answer the last lag stands.
        let _ = measure(&mut redis, &streams).await;
        match pool.get().await {
            Ok(_) => readiness.ok("postgres"),
            Err(error) => readiness.fail("postgres", error),
        }
        sleep(INTERVAL).await;
    }
}

async fn measure(redis: &mut Connection, streams: &[Stream]) -> RedisResult<()> {
    for kind in KINDS {
        let mut lag = 0;
        for stream in streams.iter().filter(|stream| label(**stream) == Some(kind)) {
            if let Some(position) = position_of(redis, *stream, WARM_SYNCER).await? {
                lag += position.lag.unwrap_or_default();
            }
        }
        metrics::LAG.set(kind, lag as f64);
    }
    Ok(())
}
