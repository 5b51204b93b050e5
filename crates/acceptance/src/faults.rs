//! Faults that features and the soak inject, each as one method of [`Pipeline`].
//!
//! A fault that lasts has its own end: a suspended worker resumes, a server starts again, the network heals.

use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::Signal;
use redis::RedisResult;
use storage_core::redis::stream::Stream;
use tokio::time::sleep;

use crate::disk_filler::DiskFiller;
use crate::network::Store;
use crate::pipeline::Pipeline;
use crate::proxy::Proxy;
use storage_core::testing::polling::PATIENCE;

/// A fault of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkFault {
    /// Every connection is reset repeatedly.
    Resets,
    /// All data is dropped, and no connection is closed.
    Blackhole,
    /// New connections are dropped, and open ones are reset.
    Refusing,
    /// Each chunk is delayed by some milliseconds.
    Slow,
    /// Data arrives in chunks of a few bytes.
    Fragmented,
}

impl NetworkFault {
    /// Every kind.
    pub const ALL: [Self; 5] = [
        Self::Resets,
        Self::Blackhole,
        Self::Refusing,
        Self::Slow,
        Self::Fragmented,
    ];

    fn inject(self, proxy: &Proxy) {
        match self {
            Self::Resets => proxy.reset(),
            Self::Blackhole => proxy.blackhole(),
            Self::Refusing => {
                proxy.refuse();
                proxy.reset();
            }
            Self::Slow => proxy.slow(Duration::from_millis(20)),
            Self::Fragmented => proxy.fragment(7),
        }
    }
}

/// Time between two resets.
const RESET_INTERVAL: Duration = Duration::from_millis(300);

impl Pipeline {
    /// Kills a worker (SIGKILL) and waits until it has ended.
    pub async fn kill_worker(&mut self, name: &str) {
        self.worker(name).kill().await;
    }

    /// Suspends a worker (SIGSTOP) until [`Pipeline::resume`].
    pub fn suspend(&mut self, name: &str) {
        self.worker(name).signal(Signal::SIGSTOP);
    }

    /// Resumes a suspended worker (SIGCONT).
    pub fn resume(&mut self, name: &str) {
        self.worker(name).signal(Signal::SIGCONT);
    }

    /// Injects a fault into the network to `store`, or to both stores, and removes it after `lasts`.
    pub async fn fail_network(&self, fault: NetworkFault, store: Option<Store>, lasts: Duration) {
        let network = self.network.as_ref().expect("a network that can fail");
        let proxies = store.map_or_else(|| network.proxies(), |store| network.proxies_to(store));
        let end = Instant::now() + lasts;
        loop {
            proxies.iter().for_each(|proxy| fault.inject(proxy));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            sleep(if fault == NetworkFault::Resets {
                left.min(RESET_INTERVAL)
            } else {
                left
            })
            .await;
        }
        proxies.iter().for_each(|proxy| proxy.heal());
    }

    /// Kills Redis and starts it again after `lasts`.
    pub async fn redis_away(&mut self, lasts: Duration) -> anyhow::Result<()> {
        self.redis.stop();
        sleep(lasts).await;
        self.redis.resume().await
    }

    /// Stops the scenario's own database server without a checkpoint and starts it again after `lasts`.
    pub async fn database_away(&mut self, lasts: Duration) -> anyhow::Result<()> {
        let server = self.other_server.as_mut().context("a database server of its own")?;
        server.stop()?;
        sleep(lasts).await;
        server.resume().await
    }

    /// Makes Redis lose everything that is written during `lasts`, as in a crash of the machine before the append-only
    /// file reaches the disk. The producer then sends again everything from the position that it has at the call.
    pub async fn lose_what_is_written_within(&mut self, lasts: Duration) -> anyhow::Result<()> {
        // The position is read first: every entry before it is in the file by then, because Redis replies after
        // writing.
        let position = self.publisher.as_ref().map(|publisher| publisher.position());
        let written = self.redis.written()?;
        sleep(lasts).await;
        self.redis.crash_back_to(&written)?;
        let Some((publisher, position)) = self.publisher.as_ref().zip(position) else {
            return self.redis.resume().await;
        };
        // The producer is paused before Redis starts: later entries must not arrive before the repeated ones.
        publisher.pause().await;
        publisher.rewind_to(position);
        self.redis.resume().await?;
        publisher.resume();
        Ok(())
    }

    /// Removes every function from Redis.
    pub async fn lose_functions(&self) -> RedisResult<()> {
        self.redis.ask(&["FUNCTION", "FLUSH"]).await
    }

    /// Destroys every consumer group of every stream.
    pub async fn lose_groups(&self) -> RedisResult<()> {
        self.each_group(async |stream, group| self.redis.ask::<()>(&["XGROUP", "DESTROY", stream, group]).await)
            .await
    }

    /// Resets every consumer group of every stream to the oldest entry.
    pub async fn rewind_groups(&self) -> RedisResult<()> {
        self.each_group(async |stream, group| self.redis.ask::<()>(&["XGROUP", "SETID", stream, group, "0"]).await)
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
    pub async fn fill_disk(&self) -> anyhow::Result<DiskFiller> {
        let server = self.other_server.as_ref();
        let disk = server.and_then(|server| server.small_disk()).context("a small disk")?;
        DiskFiller::start(self.database_url(), disk).await
    }
}
