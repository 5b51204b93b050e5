//! Measures the lag, checks PostgreSQL and announces the refresh window periodically, also while no entries arrive.

use std::time::Duration;

use redis::RedisResult;
use storage_core::postgres::pool::Pool;
use storage_core::redis::connection::Connection;
use storage_core::redis::position::position_of;
use storage_core::redis::refresh_windows;
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use storage_core::telemetry::readiness::Readiness;
use tokio::time::sleep;

use crate::{labels, metrics};

const INTERVAL: Duration = Duration::from_secs(3);

/// Refresh window of a replica.
pub(crate) struct RefreshWindow {
    pub(crate) replica: String,
    pub(crate) age: Duration,
}

/// Runs until it is aborted.
pub(crate) async fn watch(
    mut redis: Connection,
    pool: Pool,
    streams: Vec<Stream>,
    window: RefreshWindow,
    readiness: Readiness,
) -> anyhow::Result<()> {
    loop {
        // Errors are ignored, because the task that shares the partitions reports them. The last lag remains meanwhile.
        let _ = measure(&mut redis, &streams).await;
        let _ = refresh_windows::announce(&mut redis, &window.replica, window.age).await;
        match pool.get().await {
            Ok(_) => readiness.ok("postgres"),
            Err(error) => readiness.fail("postgres", error),
        }
        sleep(INTERVAL).await;
    }
}

async fn measure(redis: &mut Connection, streams: &[Stream]) -> RedisResult<()> {
    for kind in labels::ALL {
        let mut lag = 0;
        for stream in streams.iter().filter(|stream| labels::of(**stream) == Some(kind)) {
            if let Some(position) = position_of(redis, *stream, WARM_SYNCER).await? {
                lag += position.lag.unwrap_or_default();
            }
        }
        metrics::LAG.set(kind, lag as f64);
    }
    Ok(())
}
