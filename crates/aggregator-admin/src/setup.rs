//! Functions and consumer groups in Redis. `migrate` creates them, and `run` restores them after a failover or an
//! accident.

use std::time::Duration;

use anyhow::Context;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions::{self, FunctionsError};
use storage_core::redis::groups;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::Stream;
use tokio::time::sleep;

use crate::worker::Worker;

/// Interval between two checks.
const INTERVAL: Duration = Duration::from_secs(2);

/// Restores missing functions and groups until a shutdown or a failure.
pub(crate) async fn work(worker: Worker) -> anyhow::Result<()> {
    let mut redis = worker.redis();
    while !worker.token.is_cancelled() {
        if let Some(loaded) = load_functions(&mut redis).await? {
            tracing::warn!("functions: {loaded}");
        }
        for (stream, group) in create_groups(&mut redis, worker.config.stream.partitions).await? {
            tracing::warn!(%stream, group, "the consumer group was lost; created it again at the oldest entry");
        }
        worker.readiness.ok("setup");
        let _ = worker.token.run_until_cancelled(sleep(INTERVAL)).await;
    }
    Ok(())
}

/// Loads the functions if they are missing or old. Returns a description of the change, if any.
pub(crate) async fn load_functions(redis: &mut Connection) -> anyhow::Result<Option<String>> {
    let before = match functions::check(redis).await {
        Ok(()) => return Ok(None),
        Err(FunctionsError::Redis(error)) => return Err(error).context("reading the functions of Redis"),
        Err(FunctionsError::Missing) => "no functions were loaded before".to_owned(),
        Err(FunctionsError::Old { found }) => format!("version {found} was loaded before"),
    };
    functions::load(redis)
        .await
        .context("loading the functions into Redis")?;
    Ok(Some(format!("loaded version {}; {before}", functions::VERSION)))
}

/// Creates the missing groups, and returns them.
pub(crate) async fn create_groups(
    redis: &mut Connection,
    partitions: u16,
) -> anyhow::Result<Vec<(Stream, &'static str)>> {
    let mut created = Vec::new();
    for stream in Stream::all(partitions) {
        for group in stream.groups() {
            let doing = || format!("creating group {group} on {}", stream.key());
            if position_of(redis, stream, group).await.with_context(doing)?.is_none()
                && groups::create(redis, stream, group).await.with_context(doing)?
            {
                created.push((stream, *group));
            }
        }
    }
    Ok(created)
}
