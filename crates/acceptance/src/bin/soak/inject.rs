//! Injection of faults, and recovery from them.

use std::time::{Duration, Instant};

use acceptance::network::Store;
use acceptance::proxy::Proxy;
use nix::sys::signal::Signal;
use std::sync::Arc;
use storage_core::testing::polling::PATIENCE;

use crate::handover;
use crate::run::{PRODUCER_NAME, Soak};
use crate::schedule::{Clients, Fault, PRODUCER, WORKERS};

/// Time before a loss from which the producer sends again. It is longer than the two seconds by which Redis may delay
/// writes to the append-only file while the disk is busy.
const RESEND_BEFORE: Duration = Duration::from_secs(5);

impl Soak {
    /// Injects a fault.
    pub(crate) async fn inject(&mut self, fault: &Fault) -> Result<(), String> {
        match fault {
            Fault::Kill(worker) => {
                self.must_run(*worker)?;
                self.time_handover(*worker, "kill -9").await;
                self.stopped.insert(*worker);
                self.pipeline.worker(WORKERS[*worker]).kill().await;
            }
            Fault::Suspend(worker) => {
                self.must_run(*worker)?;
                self.pipeline.worker(WORKERS[*worker]).signal(Signal::SIGSTOP);
            }
            Fault::Terminate(worker) => {
                self.must_run(*worker)?;
                self.time_handover(*worker, "SIGTERM").await;
                self.stopped.insert(*worker);
                self.pipeline.worker(WORKERS[*worker]).signal(Signal::SIGTERM);
            }
            Fault::Network { store, clients, fault } => {
                self.proxies(*store, *clients)
                    .iter()
                    .for_each(|proxy| fault.inject(proxy));
            }
            Fault::RedisRestart => {
                self.lost_since = Some(Instant::now());
                self.pipeline.redis_mut().stop();
            }
            Fault::RedisLosesWrites { within } => self.lose_writes(*within).await,
            Fault::RedisFull => self.redis(&["CONFIG", "SET", "maxmemory", "1mb"]).await?,
            Fault::ClockStep(seconds) => self.step_clock(*seconds)?,
            Fault::FunctionsFlushed => self.redis(&["FUNCTION", "FLUSH"]).await?,
            Fault::GroupDestroyed(stream, group) => {
                let key = stream.key().to_string();
                self.redis(&["XGROUP", "DESTROY", &key, group]).await?;
            }
            Fault::GroupSetBack(stream, group) => {
                let key = stream.key().to_string();
                self.redis(&["XGROUP", "SETID", &key, group, "0"]).await?;
            }
            Fault::DatabaseRestart => {
                let stopped = self.pipeline.server_mut().stop();
                stopped.map_err(|error| error.to_string())?;
            }
            Fault::DiskFull => {
                let filled = self.pipeline.fill_disk().await;
                self.disk_filler = Some(filled.map_err(|error| format!("{error:#}"))?);
            }
            Fault::SessionsTerminated => {
                let ends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                            WHERE datname = current_database() AND pid <> pg_backend_pid()";
                self.pipeline.rows(ends).await?;
            }
        }
        Ok(())
    }

    /// Ends a fault and restores what it stopped.
    pub(crate) async fn recover(&mut self, fault: &Fault) -> Result<(), String> {
        match fault {
            Fault::Kill(worker) => self.launch(*worker),
            Fault::Suspend(worker) => self.pipeline.worker(WORKERS[*worker]).signal(Signal::SIGCONT),
            Fault::Terminate(worker) => {
                let status = self.pipeline.worker(WORKERS[*worker]).ended().await;
                if !status.success() {
                    self.note(&format!("{} exited with {status} after SIGTERM", WORKERS[*worker]));
                }
                self.launch(*worker);
            }
            Fault::Network { store, clients, .. } => {
                self.proxies(*store, *clients).iter().for_each(|proxy| proxy.heal())
            }
            Fault::RedisRestart | Fault::RedisLosesWrites { .. } => {
                let resumed = self.pipeline.redis_mut().resume().await;
                resumed.map_err(|error| format!("{error:#}"))?;
                let lost_since = self.lost_since.take().expect("an injected fault");
                let publisher = self.publisher();
                publisher.rewind_to_time(lost_since.checked_sub(RESEND_BEFORE).unwrap_or(self.begun));
                publisher.resume();
            }
            Fault::RedisFull => self.redis(&["CONFIG", "SET", "maxmemory", "0"]).await?,
            Fault::ClockStep(_) => self.step_clock(0)?,
            Fault::DatabaseRestart => {
                let resumed = self.pipeline.server_mut().resume().await;
                resumed.map_err(|error| format!("{error:#}"))?;
            }
            Fault::DiskFull => {
                if let Some(disk_filler) = self.disk_filler.take() {
                    disk_filler.remove().await.map_err(|error| format!("{error:#}"))?;
                }
            }
            Fault::FunctionsFlushed
            | Fault::GroupDestroyed(..)
            | Fault::GroupSetBack(..)
            | Fault::SessionsTerminated => {}
        }
        Ok(())
    }

    /// Kills Redis and removes its writes of the last `within`.
    async fn lose_writes(&mut self, within: Duration) {
        self.lost_since = Some(Instant::now());
        let written = self.pipeline.redis().written();
        tokio::time::sleep(within).await;
        self.pipeline.redis_mut().stop();
        // The producer must not send new entries before it has sent the lost ones again.
        self.publisher().pause().await;
        let cut = written.and_then(|written| self.pipeline.redis_mut().crash_back_to(&written));
        if let Err(error) = cut {
            self.note(&format!("  killed without a loss of writes: {error:#}"));
        }
    }

    fn step_clock(&self, seconds: i64) -> Result<(), String> {
        let stepped = self.pipeline.redis().step_clock(seconds);
        stepped.map_err(|error| format!("{error:#}"))
    }

    fn must_run(&mut self, worker: usize) -> Result<(), String> {
        match self.pipeline.worker(WORKERS[worker]).exit_status() {
            None => Ok(()),
            Some(status) => Err(format!("the worker has exited with {status}")),
        }
    }

    async fn time_handover(&mut self, worker: usize, cause: &'static str) {
        if WORKERS[worker].starts_with("hot-writer") {
            let handover = handover::start(self.pipeline.redis().connect(), &self.instance(worker), cause).await;
            self.handovers.push(handover);
        }
    }

    /// Sends a command to Redis, again while Redis loads its data.
    async fn redis(&self, command: &[&str]) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer: redis::RedisResult<redis::Value> = self.pipeline.redis().ask(command).await;
            match answer {
                Err(error) if error.code() == Some("LOADING") && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                answer => return answer.map(|_| ()).map_err(|error| error.to_string()),
            }
        }
    }

    fn proxies(&self, store: Store, clients: Clients) -> Vec<Arc<Proxy>> {
        let network = self.pipeline.network();
        match clients {
            Clients::All => network.proxies_to(store),
            Clients::One(PRODUCER) => vec![network.proxy(PRODUCER_NAME, store)],
            Clients::One(worker) => vec![network.proxy(WORKERS[worker], store)],
        }
    }
}
