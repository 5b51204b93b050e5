//! Handover times: from the end of a hot-writer until other replicas hold all its leases.

use std::time::{Duration, Instant};

use acceptance::producer::PARTITIONS;
use redis::RedisResult;
use storage_core::redis::connection::Connection;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(20);

/// A handover that is timed in the background.
pub(crate) struct Handover {
    /// Signal that ended the hot-writer.
    pub(crate) cause: &'static str,
    time: JoinHandle<Option<Duration>>,
}

impl Handover {
    /// Returns the time; `None` if the handover was not complete in half a minute, or the hot-writer held no lease.
    pub(crate) async fn time(self) -> Option<Duration> {
        self.time.await.ok().flatten()
    }
}

/// Starts timing until other replicas hold the leases that `instance` holds now.
pub(crate) async fn start(mut redis: Connection, instance: &str, cause: &'static str) -> Handover {
    let holders = holders(&mut redis).await.unwrap_or_default();
    let held: Vec<usize> = (0..holders.len())
        .filter(|partition| holders[*partition].as_deref() == Some(instance))
        .collect();
    let (instance, begun) = (instance.to_owned(), Instant::now());
    let time = tokio::spawn(async move {
        while !held.is_empty() && begun.elapsed() < PATIENCE {
            let now = self::holders(&mut redis).await.unwrap_or_default();
            let handed_over = |partition: &usize| {
                let holder = now.get(*partition).and_then(Option::as_deref);
                holder.is_some_and(|holder| holder != instance)
            };
            if held.iter().all(handed_over) {
                return Some(begun.elapsed());
            }
            tokio::time::sleep(INTERVAL).await;
        }
        None
    });
    Handover { cause, time }
}

/// Returns the holder of each partition's lease.
async fn holders(redis: &mut Connection) -> RedisResult<Vec<Option<String>>> {
    let mut gets = redis::pipe();
    for partition in 0..PARTITIONS {
        gets.cmd("GET").arg(format!("lease:hot-writer:{partition}"));
    }
    gets.query_async(redis).await
}
