//! Faults that features and the soak inject, each as one method of [`Pipeline`].
//!
//! A fault that lasts has its own end: a suspended worker resumes, a server starts again, the network heals.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context;
use redis::RedisResult;
use storage_core::redis::stream::Stream;
use tokio::time::sleep;

use crate::disk_filler::DiskFiller;
use crate::network::Store;
use crate::pipeline::Pipeline;
use crate::proxy::Proxy;
use crate::publisher::Publisher;
use storage_core::testing::polling::PATIENCE;

/// A fault of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkFault {
    /// Open connections are reset.
    Reset,
    /// Open connections are reset, and new ones are refused.
    Refuse,
    /// All data is dropped, and no connection is closed.
    Blackhole,
    /// Every chunk is delayed.
    Slow(Duration),
    /// Data arrives in chunks of this number of bytes.
    Fragment(usize),
}

impl NetworkFault {
    /// Injects the fault, which lasts until [`Proxy::heal`].
    pub fn inject(self, proxy: &Proxy) {
        match self {
            Self::Reset => proxy.reset(),
            Self::Refuse => {
                proxy.refuse();
                proxy.reset();
            }
            Self::Blackhole => proxy.blackhole(),
            Self::Slow(delay) => proxy.slow(delay),
            Self::Fragment(bytes) => proxy.fragment(bytes),
        }
    }
}

impl fmt::Display for NetworkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => f.write_str("reset"),
            Self::Refuse => f.write_str("refused"),
            Self::Blackhole => f.write_str("drops all data"),
            Self::Slow(delay) => write!(f, "slow ({} ms)", delay.as_millis()),
            Self::Fragment(bytes) => write!(f, "chunks of {bytes} bytes"),
        }
    }
}

/// Time between two resets.
const RESET_INTERVAL: Duration = Duration::from_millis(300);

impl Pipeline {
    /// Injects a fault into the network to `store`, or to both stores, and removes it after `lasts`. A reset is
    /// repeated.
    pub async fn fail_network(&self, fault: NetworkFault, store: Option<Store>, lasts: Duration) {
        let network = self.network();
        let proxies = store.map_or_else(|| network.proxies(), |store| network.proxies_to(store));
        let interval = if fault == NetworkFault::Reset {
            RESET_INTERVAL
        } else {
            lasts
        };
        let end = Instant::now() + lasts;
        loop {
            proxies.iter().for_each(|proxy| fault.inject(proxy));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            sleep(left.min(interval)).await;
        }
        proxies.iter().for_each(|proxy| proxy.heal());
    }

    /// Kills Redis and starts it again after `lasts`.
    pub async fn redis_away(&mut self, lasts: Duration) -> anyhow::Result<()> {
        self.redis_mut().stop();
        sleep(lasts).await;
        self.redis_mut().resume().await
    }

    /// Stops the scenario's own database server without a checkpoint and starts it again after `lasts`.
    pub async fn database_away(&mut self, lasts: Duration) -> anyhow::Result<()> {
        let server = self.server_mut();
        server.stop()?;
        sleep(lasts).await;
        server.resume().await
    }

    /// Makes Redis lose everything that is written during `lasts`, as in a crash of the machine before the append-only
    /// file reaches the disk. The feed then sends again everything from the position that it has at the call.
    pub async fn lose_writes_within(&mut self, lasts: Duration, feed: Option<&Publisher>) -> anyhow::Result<()> {
        // The position is read first: every entry before it is in the file by then, because Redis replies after
        // writing.
        let position = feed.map(Publisher::position);
        let redis = self.redis_mut();
        let written = redis.written()?;
        sleep(lasts).await;
        redis.crash_back_to(&written)?;
        let Some((feed, position)) = feed.zip(position) else {
            return redis.resume().await;
        };
        // The feed is paused before Redis starts: later entries must not arrive before the repeated ones.
        feed.pause().await;
        feed.rewind_to(position);
        redis.resume().await?;
        feed.resume();
        Ok(())
    }

    /// Removes every function from Redis.
    pub async fn lose_functions(&self) -> RedisResult<()> {
        self.redis().ask(&["FUNCTION", "FLUSH"]).await
    }

    /// Destroys every consumer group of every stream.
    pub async fn lose_groups(&self) -> RedisResult<()> {
        self.each_group(async |stream, group| self.redis().ask::<()>(&["XGROUP", "DESTROY", stream, group]).await)
            .await
    }

    /// Resets every consumer group of every stream to the oldest entry.
    pub async fn rewind_groups(&self) -> RedisResult<()> {
        self.each_group(async |stream, group| self.redis().ask::<()>(&["XGROUP", "SETID", stream, group, "0"]).await)
            .await
    }

    async fn each_group(&self, change: impl AsyncFn(&str, &str) -> RedisResult<()>) -> RedisResult<()> {
        for stream in Stream::all(crate::producer::PARTITIONS) {
            for group in stream.groups() {
                change(&stream.key().to_string(), group).await?;
            }
        }
        Ok(())
    }

    /// Terminates every session of the database that is in a transaction; waits for at least one. Returns their number.
    pub async fn end_transactions(&self) -> Result<u64, String> {
        let ends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_xid IS NOT NULL";
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let ended: u64 = self.value(ends).await?.parse().map_err(|_| "no number".to_owned())?;
            if ended > 0 {
                return Ok(ended);
            }
        }
        Err("no session was in a transaction".to_owned())
    }

    /// Fills the small disk of the database, and keeps it full until [`DiskFiller::remove`].
    pub async fn fill_disk(&mut self) -> anyhow::Result<DiskFiller> {
        let disk = self.server_mut().small_disk().context("a small disk")?.to_owned();
        DiskFiller::start(self.database_url(), &disk).await
    }
}
