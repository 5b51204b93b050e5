//! A soak from its start to its verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use acceptance::expected::Expected;
use acceptance::load::{Load, Plan};
use acceptance::network::Network;
use acceptance::pipeline::{EDITION, Pipeline};
use acceptance::publisher::{Pace, Publisher};
use acceptance::redis_server;
use cucumber::World;
use storage_core::config::redis::RedisConfig;
use storage_core::testing::native::NativeServer;
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::program::Worker;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::Task;
use crate::handover::Watched;
use crate::schedule::{Event, Server, WORKERS, schedule};

/// The producer's name in the network.
pub(crate) const PRODUCER_NAME: &str = "producer";

/// How often workers that have ended are looked for, and started again.
const SUPERVISION: Duration = Duration::from_millis(500);
/// How long everything may stand at its end and still differ: nothing more will come then.
const SETTLED: Duration = Duration::from_secs(60);
/// How much faster than the clock event time runs, so that hours of candles close in minutes.
const ACCELERATION: u32 = 240;

/// A soak.
pub(crate) struct Soak {
    pub(crate) task: Task,
    pub(crate) pipeline: Pipeline,
    pub(crate) begun: Instant,
    /// Workers that are down because of a fault.
    pub(crate) away: BTreeSet<usize>,
    /// Since when Redis may have lost what it was told.
    pub(crate) lost_since: Option<Instant>,
    pub(crate) handovers: Vec<Watched>,
    pub(crate) load: Arc<Load>,
    pub(crate) expected: Expected,
    /// Faults that were made, by kind.
    pub(crate) made: BTreeMap<String, u32>,
    /// Workers that ended by themselves and were started again.
    pub(crate) restarts: u32,
    pub(crate) drained_after: Option<Duration>,
    /// What may not happen whatever the history holds.
    failures: Vec<String>,
    starts: [u32; WORKERS.len()],
    supervised: Instant,
}

enum Action {
    Begin(Event),
    Heal(Event),
}

impl Soak {
    /// Brings everything up.
    ///
    /// # Panics
    /// When something does not start.
    pub(crate) async fn start(task: Task) -> Self {
        let entries = usize::try_from(task.length.as_secs() * u64::from(task.rate)).expect("a number of ticks");
        let load = Arc::new(Load::new(&Plan {
            span: task.length * ACCELERATION,
            ..Plan::new(task.seed, entries)
        }));
        *EDITION.write().expect("the edition") = task.edition;
        let mut pipeline = Pipeline::new().await.expect("a Redis");
        pipeline.redis.take_clock().await.expect("a Redis whose clock jumps");
        pipeline.database = database(&task, &mut pipeline.other_server).await;
        pipeline.migrate().await;
        pipeline.network = Some(Network::default());
        let short = ("STORAGE_REDIS__RESPONSE_TIMEOUT".to_owned(), "3s".to_owned());
        pipeline.settings.extend([short]);
        let mut soak = Self {
            task,
            pipeline,
            begun: Instant::now(),
            away: BTreeSet::new(),
            lost_since: None,
            handovers: Vec::new(),
            expected: Expected::of(&load),
            load,
            made: BTreeMap::new(),
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

    /// Sends the load, makes the faults and waits until the history is what it must be.
    ///
    /// # Errors
    /// Says how it differs, or what else went wrong.
    pub(crate) async fn run(&mut self) -> Result<(), String> {
        self.publish();
        for (at, action) in self.actions() {
            self.wait_until(self.begun + at).await;
            match action {
                Action::Begin(event) => self.make(&event).await,
                Action::Heal(event) => {
                    if let Err(reason) = self.heal(&event.fault).await {
                        return Err(format!("{} could not be mended: {reason}", event.fault));
                    }
                }
            }
        }
        self.wait_until(self.begun + self.task.length).await;
        let begun = Instant::now();
        self.drain().await?;
        self.drained_after = Some(begun.elapsed());
        self.pipeline.command("aggregator-admin", &["verify"]).await;
        if self.pipeline.outcome().code != Some(0) {
            self.failures
                .push(format!("aggregator-admin verify: {:?}", self.pipeline.outcome()));
        }
        match self.failures.is_empty() {
            true => Ok(()),
            false => Err(self.failures.join("\n")),
        }
    }

    fn publish(&mut self) {
        let user = self.pipeline.redis.config_for("feed-handler");
        let mut environment = BTreeMap::from([("REDIS_URL".to_owned(), user.url.expose().to_owned())]);
        let network = self.pipeline.network.as_ref().expect("a network that can fail");
        network.route(PRODUCER_NAME, &mut environment);
        let config = RedisConfig {
            password_file: user.password_file,
            ..redis_server::config(&environment["REDIS_URL"]).expect("the URL of a Redis")
        };
        let pace = Pace::PerSecond(self.task.rate);
        self.pipeline.publisher = Some(Publisher::start(Arc::clone(&self.load), &config, pace));
    }

    /// Faults and their ends, in the order of time.
    fn actions(&self) -> Vec<(Duration, Action)> {
        let events = schedule(self.task.seed, self.task.length, self.task.faults, self.task.server());
        let actions = events.into_iter().flat_map(|event| {
            let end = event.at + event.lasts;
            [(event.at, Action::Begin(event.clone())), (end, Action::Heal(event))]
        });
        let mut actions: Vec<_> = actions.collect();
        actions.sort_by_key(|(at, _)| *at);
        actions
    }

    async fn make(&mut self, event: &Event) {
        self.note(&format!("{} ({:.1} s)", event.fault, event.lasts.as_secs_f64()));
        match self.begin(&event.fault).await {
            Ok(()) => *self.made.entry(event.fault.kind()).or_default() += 1,
            Err(reason) => self.note(&format!("  not made: {reason}")),
        }
    }

    /// Prints what happens, with its time.
    pub(crate) fn note(&self, what: &str) {
        println!("{:6.1} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// The name that a worker has among its like since it was last started.
    pub(crate) fn instance(&self, worker: usize) -> String {
        format!("{}-{}", WORKERS[worker].replace(' ', "-"), self.starts[worker])
    }

    /// Starts a worker, as a copy of a name that no other had before.
    pub(crate) fn launch(&mut self, worker: usize) {
        self.starts[worker] += 1;
        let instance = ("STORAGE_SERVICE__INSTANCE".to_owned(), self.instance(worker));
        self.pipeline.settings.extend([instance]);
        self.pipeline.launch(WORKERS[worker]);
        self.away.remove(&worker);
    }

    async fn wait_until(&mut self, time: Instant) {
        loop {
            self.supervise();
            let left = time.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            sleep(left.min(SUPERVISION)).await;
        }
    }

    /// Starts workers that have ended again, as whoever runs them does: one that starts without its stores may end and say so.
    fn supervise(&mut self) {
        if self.supervised.elapsed() < SUPERVISION {
            return;
        }
        self.supervised = Instant::now();
        for (number, name) in WORKERS.into_iter().enumerate() {
            let ended = self.pipeline.worker(name).exit_status();
            if let Some(status) = ended.filter(|_| !self.away.contains(&number)) {
                let last = last_line(self.pipeline.worker(name));
                self.note(&format!("  {name} ended with {status}: {last}"));
                if status.code() != Some(1) {
                    self.failures.push(format!("{name} ended with {status}: {last}"));
                }
                self.restarts += 1;
                self.launch(number);
            }
        }
    }

    /// Waits until everything is where it must be, and stays there.
    async fn drain(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + self.patience();
        let mut standing_since = None;
        let mut right_before = false;
        loop {
            self.supervise();
            let publisher = self.pipeline.publisher.as_ref().expect("a publisher");
            let stands = match publisher.done() {
                Ok(()) => self.pipeline.drained().await,
                Err(reason) => Err(reason),
            };
            let verdict = match &stands {
                Ok(()) => self.pipeline.holds(&self.expected).await,
                Err(reason) => Err(reason.clone()),
            };
            match verdict {
                Ok(()) if right_before => return Ok(()),
                Ok(()) => right_before = true,
                Err(reason) => {
                    right_before = false;
                    let since = match stands {
                        Ok(()) => *standing_since.get_or_insert_with(Instant::now),
                        Err(_) => {
                            standing_since = None;
                            Instant::now()
                        }
                    };
                    if since.elapsed() > SETTLED {
                        return Err(format!("nothing moves any more, but {reason}"));
                    }
                    if Instant::now() > deadline {
                        return Err(format!("not drained within {:?}: {reason}", self.patience()));
                    }
                }
            }
            sleep(2 * SUPERVISION).await;
        }
    }

    /// A machine that does much else is slow, and what a fault held up has to be caught up with.
    fn patience(&self) -> Duration {
        Duration::from_secs(180) + self.task.length
    }

    /// Keeps the workers' logs and Redis's files, and says where.
    ///
    /// # Panics
    /// When they can't be kept.
    pub(crate) fn keep_evidence(&mut self) -> PathBuf {
        let folder = std::mem::replace(&mut self.pipeline.folder, TempDir::new().expect("a folder"));
        let folder = folder.keep();
        self.pipeline.redis.stop();
        copy(self.pipeline.redis.folder(), &folder.join("redis"));
        folder
    }

    /// Ends everything.
    pub(crate) async fn close(mut self) {
        self.pipeline.close().await;
    }
}

async fn database(task: &Task, server: &mut Option<NativeServer>) -> Option<TestDatabase> {
    let minutes = u32::try_from(task.length.as_secs() / 60).expect("a number of minutes");
    let started = match task.server() {
        Server::Embedded => return TestDatabase::start(task.edition).await,
        Server::Native => NativeServer::start(None, &[]).await,
        Server::NativeOnSmallDisk => NativeServer::start_with_small_disk(200 + 60 * minutes).await,
    };
    *server = started.expect("a database server");
    let server = server
        .as_ref()
        .expect("PostgreSQL, which `scripts/services tools` installs");
    Some(TestDatabase::on(server).await.expect("a database"))
}

fn last_line(worker: &Worker) -> String {
    worker.log().lines().next_back().unwrap_or_default().to_owned()
}

/// Copies a folder; what can't be read is left out.
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
