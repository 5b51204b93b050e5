//! Making a fault, and mending it.

use std::time::{Duration, Instant};

use acceptance::network::Store;
use acceptance::proxy::Proxy;
use nix::sys::signal::Signal;
use std::sync::Arc;
use storage_core::testing::polling::PATIENCE;

use crate::handover;
use crate::run::{PRODUCER_NAME, Soak};
use crate::schedule::{Ends, Fault, PRODUCER, Trouble, WORKERS};

/// How far before a loss the producer begins again: Redis may hold back what it writes to the append-only file for two seconds
/// while the disk is busy.
const BACK: Duration = Duration::from_secs(5);

impl Soak {
    /// Makes a fault.
    ///
    /// # Errors
    /// Says why it could not be made.
    pub(crate) async fn begin(&mut self, fault: &Fault) -> Result<(), String> {
        match fault {
            Fault::Kill(worker) => {
                self.must_run(*worker)?;
                self.watch_handover(*worker, "kill -9").await;
                self.away.insert(*worker);
                self.pipeline.kill_worker(WORKERS[*worker]).await;
            }
            Fault::Stop(worker) => {
                self.must_run(*worker)?;
                self.pipeline.freeze(WORKERS[*worker]);
            }
            Fault::Leave(worker) => {
                self.must_run(*worker)?;
                self.watch_handover(*worker, "SIGTERM").await;
                self.away.insert(*worker);
                self.pipeline.worker(WORKERS[*worker]).signal(Signal::SIGTERM);
            }
            Fault::Network { store, of, trouble } => {
                self.ways(*store, *of).iter().for_each(|way| trouble.begin(way));
            }
            Fault::RedisRestart => {
                self.lost_since = Some(Instant::now());
                self.pipeline.redis.stop();
            }
            Fault::RedisCut { back } => self.cut_redis(*back).await,
            Fault::RedisFull => self.redis(&["CONFIG", "SET", "maxmemory", "1mb"]).await?,
            Fault::ClockStep(seconds) => self.step_clock(*seconds)?,
            Fault::FunctionsFlushed => self.redis(&["FUNCTION", "FLUSH"]).await?,
            Fault::GroupDestroyed(stream, group) => {
                let key = stream.key().to_string();
                self.redis(&["XGROUP", "DESTROY", &key, group]).await?;
            }
            Fault::GroupRewound(stream, group) => {
                let key = stream.key().to_string();
                self.redis(&["XGROUP", "SETID", &key, group, "0"]).await?;
            }
            Fault::DatabaseRestart => {
                let server = self.pipeline.other_server.as_mut().expect("a server of its own");
                server.stop().map_err(|error| error.to_string())?;
            }
            Fault::DiskFull => {
                let filled = self.pipeline.fill_disk().await;
                self.pipeline.ballast = Some(filled.map_err(|error| format!("{error:#}"))?);
            }
            Fault::SessionsEnded => {
                let ends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                            WHERE datname = current_database() AND pid <> pg_backend_pid()";
                self.pipeline.rows(ends).await?;
            }
        }
        Ok(())
    }

    /// Mends it.
    ///
    /// # Errors
    /// Says why it could not be mended.
    pub(crate) async fn heal(&mut self, fault: &Fault) -> Result<(), String> {
        match fault {
            Fault::Kill(worker) => self.launch(*worker),
            Fault::Stop(worker) => self.pipeline.thaw(WORKERS[*worker]),
            Fault::Leave(worker) => {
                let status = self.pipeline.worker(WORKERS[*worker]).ended().await;
                if !status.success() {
                    self.note(&format!("{} ended with {status} on SIGTERM", WORKERS[*worker]));
                }
                self.launch(*worker);
            }
            Fault::Network { store, of, .. } => self.ways(*store, *of).iter().for_each(|way| way.heal()),
            Fault::RedisRestart | Fault::RedisCut { .. } => {
                let resumed = self.pipeline.redis.resume().await;
                resumed.map_err(|error| format!("{error:#}"))?;
                let lost_since = self.lost_since.take().expect("a fault that was begun");
                let publisher = self.pipeline.publisher.as_ref().expect("a publisher");
                publisher.rewind_to_time(lost_since.checked_sub(BACK).unwrap_or(self.begun));
                publisher.resume();
            }
            Fault::RedisFull => self.redis(&["CONFIG", "SET", "maxmemory", "0"]).await?,
            Fault::ClockStep(_) => self.step_clock(0)?,
            Fault::DatabaseRestart => {
                let server = self.pipeline.other_server.as_mut().expect("a server of its own");
                server.resume().await.map_err(|error| format!("{error:#}"))?;
            }
            Fault::DiskFull => {
                if let Some(ballast) = self.pipeline.ballast.take() {
                    ballast.remove().await.map_err(|error| format!("{error:#}"))?;
                }
            }
            Fault::FunctionsFlushed | Fault::GroupDestroyed(..) | Fault::GroupRewound(..) | Fault::SessionsEnded => {}
        }
        Ok(())
    }

    /// Redis is killed and has lost what it was told in the last `back`.
    async fn cut_redis(&mut self, back: Duration) {
        self.lost_since = Some(Instant::now());
        let written = self.pipeline.redis.written();
        tokio::time::sleep(back).await;
        self.pipeline.redis.stop();
        // Nothing new may come before what was lost.
        self.pipeline.publisher.as_ref().expect("a publisher").pause().await;
        let cut = written.and_then(|written| self.pipeline.redis.crash_back_to(&written));
        if let Err(error) = cut {
            self.note(&format!("  only killed: {error:#}"));
        }
    }

    fn step_clock(&self, seconds: i64) -> Result<(), String> {
        let stepped = self.pipeline.redis.step_clock(seconds);
        stepped.map_err(|error| format!("{error:#}"))
    }

    fn must_run(&mut self, worker: usize) -> Result<(), String> {
        match self.pipeline.worker(WORKERS[worker]).exit_status() {
            None => Ok(()),
            Some(status) => Err(format!("it had ended with {status}")),
        }
    }

    async fn watch_handover(&mut self, worker: usize, cause: &'static str) {
        if WORKERS[worker].starts_with("hot-writer") {
            let watched = handover::watch(self.pipeline.redis.connect(), &self.instance(worker), cause).await;
            self.handovers.push(watched);
        }
    }

    /// Asks Redis; one that was just started may still load its data.
    async fn redis(&self, command: &[&str]) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer: redis::RedisResult<redis::Value> = self.pipeline.redis.ask(command).await;
            match answer {
                Err(error) if error.code() == Some("LOADING") && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                answer => return answer.map(|_| ()).map_err(|error| error.to_string()),
            }
        }
    }

    fn ways(&self, store: Store, of: Ends) -> Vec<Arc<Proxy>> {
        let network = self.pipeline.network.as_ref().expect("a network that can fail");
        match of {
            Ends::All => network.ways_to(store),
            Ends::One(PRODUCER) => vec![network.way(PRODUCER_NAME, store)],
            Ends::One(worker) => vec![network.way(WORKERS[worker], store)],
        }
    }
}

impl Trouble {
    fn begin(self, way: &Proxy) {
        match self {
            Self::Reset => way.reset(),
            Self::Refuse => {
                way.refuse();
                way.reset();
            }
            Self::Silence => way.silence(),
            Self::Slow(delay) => way.slow(delay),
            Self::Slice(bytes) => way.slice(bytes),
        }
    }
}
