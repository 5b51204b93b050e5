//! How long the partitions of a hot-writer that went away stood still: from the fault until others hold all its leases.

use std::time::{Duration, Instant};

use acceptance::pipeline::PARTITIONS;
use redis::RedisResult;
use storage_core::redis::connection::Connection;
use tokio::task::JoinHandle;

/// For how long it is watched.
const PATIENCE: Duration = Duration::from_secs(30);
const INTERVAL: Duration = Duration::from_millis(20);

/// A hand-over that is watched in the background.
pub(crate) struct Watched {
    /// What made it necessary.
    pub(crate) cause: &'static str,
    time: JoinHandle<Option<Duration>>,
}

impl Watched {
    /// The time that it took; `None` where it was not over in half a minute, or there was nothing to hand over.
    pub(crate) async fn time(self) -> Option<Duration> {
        self.time.await.ok().flatten()
    }
}

/// Watches until others hold what `instance` holds now.
pub(crate) async fn watch(mut redis: Connection, instance: &str, cause: &'static str) -> Watched {
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
    Watched { cause, time }
}

/// Who holds each partition.
async fn holders(redis: &mut Connection) -> RedisResult<Vec<Option<String>>> {
    let mut gets = redis::pipe();
    for partition in 0..PARTITIONS {
        gets.cmd("GET").arg(format!("lease:hot-writer:{partition}"));
    }
    gets.query_async(redis).await
}
