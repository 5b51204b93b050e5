//! Course of a soak: start, load and faults, drain, verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use acceptance::disk_filler::DiskFiller;
use acceptance::expected::Expected;
use acceptance::load::{Load, Plan};
use acceptance::network::Store;
use acceptance::pipeline::Pipeline;
use acceptance::publisher::{Pace, Publisher};
use acceptance::redis_server;
use storage_core::config::redis::RedisConfig;
use storage_core::testing::native::NativeServer;
use storage_core::testing::program::Worker;
use tokio::time::sleep;

use crate::handover::Handover;
use crate::parameters::Parameters;
use crate::schedule::{Event, Server, WORKERS, schedule};

/// Name of the producer in the network.
pub(crate) const PRODUCER_NAME: &str = "producer";

/// Interval of looking for workers that exited, to start them again.
const SUPERVISION_INTERVAL: Duration = Duration::from_millis(500);
/// Time after which a drained pipeline whose history is wrong counts as failed.
const SETTLED: Duration = Duration::from_secs(60);
/// Factor by which event time is faster than the clock, so that hours of candles close in minutes.
const ACCELERATION: u32 = 240;

/// State of a soak.
pub(crate) struct Soak {
    pub(crate) parameters: Parameters,
    pub(crate) pipeline: Pipeline,
    pub(crate) publisher: Option<Publisher>,
    /// Keeps the disk of the database full.
    pub(crate) disk_filler: Option<DiskFiller>,
    pub(crate) begun: Instant,
    /// Workers that a fault has stopped.
    pub(crate) stopped: BTreeSet<usize>,
    /// Time since which Redis may have lost writes.
    pub(crate) lost_since: Option<Instant>,
    pub(crate) handovers: Vec<Handover>,
    pub(crate) load: Arc<Load>,
    pub(crate) expected: Expected,
    /// Number of injected faults of each kind.
    pub(crate) injected: BTreeMap<String, u32>,
    /// Number of restarts of workers that exited without a fault.
    pub(crate) restarts: u32,
    pub(crate) drained_after: Option<Duration>,
    /// Errors other than differences in the history.
    failures: Vec<String>,
    starts: [u32; WORKERS.len()],
    supervised: Instant,
}

enum Action {
    Inject(Event),
    Recover(Event),
}

impl Soak {
    /// Starts the stores and the workers.
    pub(crate) async fn start(parameters: Parameters) -> Self {
        let entries =
            usize::try_from(parameters.length.as_secs() * u64::from(parameters.rate)).expect("a number of ticks");
        let load = Arc::new(Load::new(&Plan {
            span: parameters.length * ACCELERATION,
            pauses: 8,
            ..Plan::new(parameters.seed, entries)
        }));
        let mut pipeline = Pipeline::start().await.expect("a Redis");
        pipeline.set_edition(parameters.edition);
        let clock = pipeline.redis_mut().restart_with_clock().await;
        clock.expect("a Redis whose clock jumps");
        if let Some(server) = database_server(&parameters).await {
            pipeline.use_server(server).await.expect("a database");
        }
        pipeline.migrate().await;
        pipeline.add_network();
        pipeline.set("STORAGE_REDIS__RESPONSE_TIMEOUT", "3s");
        let mut soak = Self {
            parameters,
            pipeline,
            publisher: None,
            disk_filler: None,
            begun: Instant::now(),
            stopped: BTreeSet::new(),
            lost_since: None,
            handovers: Vec::new(),
            expected: Expected::of(&load),
            load,
            injected: BTreeMap::new(),
            restarts: 0,
            drained_after: None,
            failures: Vec::new(),
            starts: [0; WORKERS.len()],
            supervised: Instant::now(),
        };
        for worker in 0..WORKERS.len() {
            soak.launch(worker);
        }
        for worker in WORKERS {
            soak.pipeline.worker(worker).ready().await;
        }
        soak.begun = Instant::now();
        soak
    }

    /// Sends the load, injects the faults and waits until the history is as expected.
    pub(crate) async fn run(&mut self) -> Result<(), String> {
        self.publish();
        for (at, action) in self.actions() {
            self.wait_until(self.begun + at).await;
            match action {
                Action::Inject(event) => self.inject_event(&event).await,
                Action::Recover(event) => {
                    if let Err(reason) = self.recover(&event.fault).await {
                        return Err(format!("cannot recover from `{}`: {reason}", event.fault));
                    }
                }
            }
        }
        self.wait_until(self.begun + self.parameters.length).await;
        let begun = Instant::now();
        self.drain().await?;
        self.drained_after = Some(begun.elapsed());
        let outcome = self.pipeline.command("aggregator-admin", &["verify"]).await;
        if outcome.code != Some(0) {
            self.failures.push(format!("aggregator-admin verify: {outcome:?}"));
        }
        if let Err(reason) = self.pipeline.gaps_are(&self.expected).await {
            self.failures.push(format!("aggregator-admin gaps: {reason}"));
        }
        match self.failures.is_empty() {
            true => Ok(()),
            false => Err(self.failures.join("\n")),
        }
    }

    fn publish(&mut self) {
        let user = self.pipeline.redis().config_for("feed-handler");
        let network = self.pipeline.network();
        let url = network.route(PRODUCER_NAME, Store::Redis, user.url.expose());
        let config = RedisConfig {
            password_file: user.password_file,
            ..redis_server::config(&url).expect("the URL of a Redis")
        };
        let pace = Pace::PerSecond(self.parameters.rate);
        self.publisher = Some(Publisher::start(Arc::clone(&self.load), &config, pace));
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        self.publisher.as_ref().expect("a publisher")
    }

    /// Returns the starts and ends of all faults, in order of time.
    fn actions(&self) -> Vec<(Duration, Action)> {
        let events = schedule(
            self.parameters.seed,
            self.parameters.length,
            self.parameters.faults,
            self.parameters.server(),
        );
        let actions = events.into_iter().flat_map(|event| {
            let end = event.at + event.lasts;
            [(event.at, Action::Inject(event.clone())), (end, Action::Recover(event))]
        });
        let mut actions: Vec<_> = actions.collect();
        actions.sort_by_key(|(at, _)| *at);
        actions
    }

    async fn inject_event(&mut self, event: &Event) {
        self.note(&format!("{} ({:.1} s)", event.fault, event.lasts.as_secs_f64()));
        match self.inject(&event.fault).await {
            Ok(()) => *self.injected.entry(event.fault.kind()).or_default() += 1,
            Err(reason) => self.note(&format!("  not injected: {reason}")),
        }
    }

    /// Prints an event with its time.
    pub(crate) fn note(&self, event: &str) {
        println!("{:6.1} s  {event}", self.begun.elapsed().as_secs_f64());
    }

    /// Returns the instance name of a worker, which changes with every start.
    pub(crate) fn instance(&self, worker: usize) -> String {
        format!("{}-{}", WORKERS[worker].replace(' ', "-"), self.starts[worker])
    }

    /// Starts a worker with a new instance name.
    pub(crate) fn launch(&mut self, worker: usize) {
        self.starts[worker] += 1;
        self.pipeline.set("STORAGE_SERVICE__INSTANCE", self.instance(worker));
        self.pipeline.launch(WORKERS[worker]);
        self.stopped.remove(&worker);
    }

    async fn wait_until(&mut self, time: Instant) {
        loop {
            self.supervise();
            let left = time.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            sleep(left.min(SUPERVISION_INTERVAL)).await;
        }
    }

    /// Restarts workers that exited, as a service manager does: a worker that starts while its stores are down may
    /// exit.
    fn supervise(&mut self) {
        if self.supervised.elapsed() < SUPERVISION_INTERVAL {
            return;
        }
        self.supervised = Instant::now();
        for (number, name) in WORKERS.into_iter().enumerate() {
            let ended = self.pipeline.worker(name).exit_status();
            if let Some(status) = ended.filter(|_| !self.stopped.contains(&number)) {
                let last = last_log_line(self.pipeline.worker(name));
                self.note(&format!("  {name} exited with {status}: {last}"));
                if status.code() != Some(1) {
                    self.failures.push(format!("{name} exited with {status}: {last}"));
                }
                self.restarts += 1;
                self.launch(number);
            }
        }
    }

    /// Waits until every stream is drained and the history is as expected twice in a row.
    async fn drain(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + self.patience();
        let mut drained_since = None;
        let mut was_right = false;
        loop {
            self.supervise();
            let drained = match self.publisher().done() {
                Ok(()) => self.pipeline.drained().await,
                Err(reason) => Err(reason),
            };
            let verdict = match &drained {
                Ok(()) => self.pipeline.holds(&self.expected).await,
                Err(reason) => Err(reason.clone()),
            };
            match verdict {
                Ok(()) if was_right => return Ok(()),
                Ok(()) => was_right = true,
                Err(reason) => {
                    was_right = false;
                    let since = match drained {
                        Ok(()) => *drained_since.get_or_insert_with(Instant::now),
                        Err(_) => {
                            drained_since = None;
                            Instant::now()
                        }
                    };
                    if since.elapsed() > SETTLED {
                        return Err(format!("every stream is drained, but {reason}"));
                    }
                    if Instant::now() > deadline {
                        return Err(format!("not drained within {:?}: {reason}", self.patience()));
                    }
                }
            }
            sleep(2 * SUPERVISION_INTERVAL).await;
        }
    }

    /// Returns the deadline of draining: long enough for a busy machine and for the backlog of a fault.
    fn patience(&self) -> Duration {
        Duration::from_secs(180) + self.parameters.length
    }

    /// Keeps the workers' logs and Redis's files, and returns their folder.
    pub(crate) fn keep_evidence(&mut self) -> PathBuf {
        let folder = self.pipeline.keep_folder();
        self.pipeline.redis_mut().stop();
        copy(self.pipeline.redis().folder(), &folder.join("redis"));
        folder
    }

    pub(crate) async fn close(mut self) {
        drop((self.publisher, self.disk_filler));
        self.pipeline.close().await;
    }
}

/// Starts the native database server that the faults need; `None` for the embedded one.
async fn database_server(parameters: &Parameters) -> Option<NativeServer> {
    let minutes = u32::try_from(parameters.length.as_secs() / 60).expect("a number of minutes");
    let started = match parameters.server() {
        Server::Embedded => return None,
        Server::Native => NativeServer::start(None, &[]).await,
        Server::NativeOnSmallDisk => NativeServer::start_with_small_disk(200 + 60 * minutes).await,
    };
    let server = started.expect("a database server");
    Some(server.expect("PostgreSQL, which `scripts/services tools` installs"))
}

fn last_log_line(worker: &Worker) -> String {
    worker.log().lines().next_back().unwrap_or_default().to_owned()
}

/// Copies a folder, except files that cannot be read.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            let _ = fs::copy(entry.path(), target);
        }
    }
}
