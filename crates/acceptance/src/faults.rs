//! Faults that can be made on one machine, each as one call on a [`Pipeline`]: what features and a soak test share.
//!
//! A fault that lasts has an end of its own kind: frozen workers wake up, servers come back, the network heals.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use redis::RedisResult;
use storage_core::redis::stream::Stream;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::database;
use crate::network::Store;
use crate::pipeline::Pipeline;
use crate::proxy::Proxy;
use storage_core::testing::polling::PATIENCE;

/// What the network does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// Every connection is reset, and then again and again.
    Resets,
    /// Nothing that is sent arrives and nothing is closed.
    Silent,
    /// New connections are dropped, and the open ones are reset.
    Refusing,
    /// Each piece takes some milliseconds.
    Slow,
    /// What is sent arrives in pieces of a few bytes.
    Sliced,
}

impl Weather {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Resets, Self::Silent, Self::Refusing, Self::Slow, Self::Sliced];

    fn begin(self, way: &Proxy) {
        match self {
            Self::Resets => way.reset(),
            Self::Silent => way.silence(),
            Self::Refusing => {
                way.refuse();
                way.reset();
            }
            Self::Slow => way.slow(Duration::from_millis(20)),
            Self::Sliced => way.slice(7),
        }
    }
}

/// Between two resets.
const RESET_INTERVAL: Duration = Duration::from_millis(300);

/// Between two looks whether a full disk has room.
const FILL_INTERVAL: Duration = Duration::from_millis(100);

impl Pipeline {
    /// Kills a worker (SIGKILL) and waits until it is gone.
    pub async fn kill_worker(&mut self, name: &str) {
        self.worker(name).kill().await;
    }

    /// Stops a worker in its tracks (SIGSTOP); [`Pipeline::thaw`] lets it go on as if no time had passed.
    pub fn freeze(&mut self, name: &str) {
        self.worker(name).signal(Signal::SIGSTOP);
    }

    /// Lets a frozen worker go on (SIGCONT).
    pub fn thaw(&mut self, name: &str) {
        self.worker(name).signal(Signal::SIGCONT);
    }

    /// Lets the ways to `store`, or to both, have this weather for so long.
    ///
    /// # Panics
    /// When the scenario has no network that can fail.
    pub async fn weather(&self, weather: Weather, store: Option<Store>, lasts: Duration) {
        let network = self.network.as_ref().expect("a network that can fail");
        let ways = store.map_or_else(|| network.ways(), |store| network.ways_to(store));
        let end = Instant::now() + lasts;
        loop {
            ways.iter().for_each(|way| weather.begin(way));
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            sleep(if weather == Weather::Resets {
                left.min(RESET_INTERVAL)
            } else {
                left
            })
            .await;
        }
        ways.iter().for_each(|way| way.heal());
    }

    /// Kills Redis and starts it again after so long.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn redis_away(&mut self, lasts: Duration) -> anyhow::Result<()> {
        self.redis.stop();
        sleep(lasts).await;
        self.redis.resume().await
    }

    /// Stops the scenario's own database server in mid-flow and starts it again after so long.
    ///
    /// # Errors
    /// When there is none, or it does not start.
    pub async fn database_away(&mut self, lasts: Duration) -> anyhow::Result<()> {
        let server = self.other_server.as_mut().context("a database server of its own")?;
        server.stop()?;
        sleep(lasts).await;
        server.resume().await
    }

    /// Has Redis lose all that was written within so long from now, as when its machine crashes before the append-only file
    /// reached the disk. The producer goes back to what it had sent by now.
    ///
    /// # Errors
    /// When Redis rewrote the file meanwhile, or does not start.
    pub async fn lose_what_is_written_within(&mut self, lasts: Duration) -> anyhow::Result<()> {
        // In this order: what was accepted at this position was in the file before it was answered.
        let position = self.publisher.as_ref().map(|publisher| publisher.position());
        let written = self.redis.written()?;
        sleep(lasts).await;
        self.redis.crash_back_to(&written)?;
        let Some((publisher, position)) = self.publisher.as_ref().zip(position) else {
            return self.redis.resume().await;
        };
        // Before Redis is there again: what comes later must not arrive before what is sent again.
        publisher.pause().await;
        publisher.rewind_to(position);
        self.redis.resume().await?;
        publisher.resume();
        Ok(())
    }

    /// Removes every function from Redis.
    ///
    /// # Errors
    /// What Redis says.
    pub async fn lose_functions(&self) -> RedisResult<()> {
        self.redis.ask(&["FUNCTION", "FLUSH"]).await
    }

    /// Destroys every consumer group of every stream.
    ///
    /// # Errors
    /// What Redis says.
    pub async fn lose_groups(&self) -> RedisResult<()> {
        self.each_group(async |stream, group| self.redis.ask::<()>(&["XGROUP", "DESTROY", stream, group]).await)
            .await
    }

    /// Sets every consumer group of every stream back to the oldest entry.
    ///
    /// # Errors
    /// What Redis says.
    pub async fn rewind_groups(&self) -> RedisResult<()> {
        self.each_group(async |stream, group| self.redis.ask::<()>(&["XGROUP", "SETID", stream, group, "0"]).await)
            .await
    }

    async fn each_group(&self, change: impl AsyncFn(&str, &str) -> RedisResult<()>) -> RedisResult<()> {
        for stream in Stream::all(crate::pipeline::PARTITIONS) {
            for group in stream.groups() {
                change(&stream.key().to_string(), group).await?;
            }
        }
        Ok(())
    }

    /// Ends every session of the database that is in a transaction, until one was. Returns how many.
    ///
    /// # Errors
    /// What the server says, or that there never was one.
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
        Err("nobody was in a transaction".to_owned())
    }

    /// Fills the small disk on which the database lies, and keeps it full until [`Ballast::remove`].
    ///
    /// # Errors
    /// When it has none, or it does not become full.
    pub async fn fill_disk(&self) -> anyhow::Result<Ballast> {
        let server = self.other_server.as_ref();
        let disk = server.and_then(|server| server.small_disk()).context("a small disk")?;
        let ballast = Ballast {
            url: self.database_url().to_owned(),
            disk: disk.display().to_string(),
            removed: CancellationToken::new(),
            filling: None,
        };
        ballast.fill(0).await?;
        Ok(ballast.keep_filling())
    }
}

/// What fills a disk, in numbered files.
#[derive(Debug)]
pub struct Ballast {
    url: String,
    disk: String,
    removed: CancellationToken,
    /// Ends with how many files there are.
    filling: Option<JoinHandle<u32>>,
}

impl Ballast {
    /// A file that takes what there is. The server's own write, so that it lands where the server sees it.
    async fn fill(&self, number: u32) -> anyhow::Result<()> {
        let rows = "SELECT repeat('x', 8000) FROM generate_series(1, 1000000)";
        let refused = self.write(number, rows).await.err();
        let refused = refused.context("the disk is larger than the ballast")?;
        ensure!(refused.contains("No space left on device"), refused);
        Ok(())
    }

    async fn write(&self, number: u32, rows: &str) -> Result<(), String> {
        let copy = format!("COPY ({rows}) TO '{}/ballast.{number}'", self.disk);
        database::rows(&self.url, &copy).await.map(drop)
    }

    /// Transactions that fail give back what they had: it is taken too.
    fn keep_filling(mut self) -> Self {
        let filler = Self {
            filling: None,
            url: self.url.clone(),
            disk: self.disk.clone(),
            removed: self.removed.clone(),
        };
        self.filling = Some(tokio::spawn(async move {
            let mut files = 1;
            while !filler.removed.is_cancelled() {
                sleep(FILL_INTERVAL).await;
                // The server may be busy failing.
                let _ = filler.fill(files).await;
                files += 1;
            }
            files
        }));
        self
    }

    /// Makes room again.
    ///
    /// # Errors
    /// What the server says.
    pub async fn remove(mut self) -> anyhow::Result<()> {
        self.removed.cancel();
        let filling = self.filling.take().context("a disk that is kept full")?;
        for number in 0..filling.await? {
            let nothing = self.write(number, "SELECT 1 WHERE false").await;
            nothing.map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        self.removed.cancel();
    }
}
