//! Options and servers of a measurement.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::time::{Duration, Instant};

use acceptance::producer::PARTITIONS;
use acceptance::redis_server::RedisServer;
use anyhow::{Context, ensure};
use storage_core::testing::native::NativeServer;
use storage_core::testing::process::project;
use storage_core::testing::program::{Program, Worker};
use storage_core::testing::redis::prepare;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::sleep;

use crate::figure::Figure;

/// Settings of the native PostgreSQL: the same as in `scripts/services`, and durable, unlike those of a server for
/// tests.
const POSTGRES_SETTINGS: [&str; 4] = [
    "fsync=on",
    "synchronous_commit=on",
    "shared_buffers=256MB",
    "max_wal_size=2GB",
];

/// Deadline for a worker to own its partitions, and the interval of polling.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A measurement and its name on the command line.
pub(crate) struct Measurement {
    pub(crate) name: &'static str,
    pub(crate) run: for<'a> fn(&'a Bench) -> Measured<'a>,
}

/// Future of a measurement that returns its figures.
pub(crate) type Measured<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Vec<Figure>>> + 'a>>;

/// Options of the run, and its temporary files.
pub(crate) struct Bench {
    pub(crate) quick: bool,
    /// Number of rounds. Each round measures both sides of a figure.
    pub(crate) rounds: usize,
    pub(crate) seed: u64,
    /// `true` if all symbols are traded equally often.
    pub(crate) uniform: bool,
    /// File of the plot.
    pub(crate) svg: PathBuf,
    folder: TempDir,
}

impl Bench {
    pub(crate) fn new(quick: bool, rounds: usize, seed: u64, uniform: bool, svg: PathBuf) -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        Ok(Self {
            quick,
            rounds,
            seed,
            uniform,
            svg,
            folder,
        })
    }

    /// Returns `quick` with `--quick`, else `full`.
    pub(crate) fn sized<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Returns the folder of the logs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a Redis with the project's configuration (`appendonly yes`, `appendfsync everysec`) and the functions,
    /// groups and partitions that `aggregator-admin migrate` creates.
    pub(crate) async fn redis(&self) -> anyhow::Result<RedisServer> {
        self.redis_of(PARTITIONS).await
    }

    /// Starts the same with another number of partitions.
    pub(crate) async fn redis_of(&self, partitions: u16) -> anyhow::Result<RedisServer> {
        let redis = RedisServer::start().await?;
        prepare(&mut redis.connect(), partitions).await;
        Ok(redis)
    }

    /// Starts a native PostgreSQL that syncs its WAL at every commit.
    pub(crate) async fn postgres(&self) -> anyhow::Result<NativeServer> {
        let server = NativeServer::start(None, &POSTGRES_SETTINGS).await?;
        server.context("no PostgreSQL here; run `scripts/services tools`")
    }

    /// Starts a worker of the release build with its default configuration.
    pub(crate) fn worker(&self, name: &str, environment: &[(&str, &str)]) -> Worker {
        let program = Program::new(name)
            .env("RUST_LOG", "info")
            .envs(environment.iter().copied());
        program.start_in(self.folder(), name)
    }

    /// Starts a script of `python/` in the virtual environment that `scripts/bench` created. The caller reads its
    /// output.
    pub(crate) fn python(&self, script: &str, arguments: &[&str]) -> anyhow::Result<Child> {
        let python = std::env::var_os("BENCH_PYTHON").context("BENCH_PYTHON is not set; run scripts/bench")?;
        let script = project().join("crates/acceptance/src/bin/bench/python").join(script);
        ensure!(script.exists(), "{} is missing", script.display());
        let mut command = Command::new(python);
        command
            .arg(script)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Ok(command.kill_on_drop(true).spawn()?)
    }
}

/// Returns the value of a worker's metric; 0 if it has no metric of that name.
pub(crate) async fn sample(worker: &mut Worker, name: &str) -> anyhow::Result<f64> {
    Ok(worker.metrics().await.get(name).copied().unwrap_or_default())
}

/// Waits until a worker owns `partitions` partitions.
pub(crate) async fn serves(worker: &mut Worker, partitions: u16) -> anyhow::Result<()> {
    all_serve(std::slice::from_mut(worker), partitions).await
}

/// Waits until the replicas of a worker own equal shares of `partitions` partitions.
pub(crate) async fn all_serve(workers: &mut [Worker], partitions: u16) -> anyhow::Result<()> {
    let least = f64::from(partitions) / workers.len() as f64;
    let begun = Instant::now();
    loop {
        let mut owned = Vec::new();
        for worker in &mut *workers {
            let (name, _) = worker.name().split_once(' ').unwrap_or((worker.name(), ""));
            let count = format!("{}_partitions_count", name.replace('-', "_"));
            owned.push(sample(worker, &count).await?);
        }
        if owned.iter().sum::<f64>() == f64::from(partitions) && owned.iter().all(|count| *count >= least.floor()) {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "the workers own {owned:?} of {partitions} partitions:\n{}",
            workers.iter().map(Worker::log).collect::<String>()
        );
        sleep(POLL).await;
    }
}
