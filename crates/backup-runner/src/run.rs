//! The start of the worker and its tasks: scheduled backups, their verification and retention, and the WAL archive.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use storage_core::config::Misconfigured;
use storage_core::program;
use storage_core::redis::preflight;
use storage_core::retry::Backoff;
use storage_core::service::Stopped;
use storage_core::startup::Startup;
use storage_core::telemetry::readiness::Readiness;
use storage_core::terminal::size;
use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Config;
use crate::destination::Destination;
use crate::execute::make;
use crate::manifest::{Kind, Manifest};
use crate::metrics;
use crate::postgres::wal;
use crate::prune::prune;
use crate::schedule::until_due;
use crate::verify::problems;

/// Time between two attempts to acquire the lock that another replica holds.
const TURN_INTERVAL: Duration = Duration::from_secs(10);

/// Shortest and longest pause after a failed backup. A backup is too much work for a fast retry.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// The context that all tasks share.
#[derive(Clone)]
struct Worker {
    config: Config,
    destination: Destination,
    readiness: Readiness,
    token: CancellationToken,
    /// Held during a backup or a verification, so that only one reads at a time.
    reading: Arc<Mutex<()>>,
}

/// Runs the worker until SIGTERM.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let scheduled = Kind::ALL.map(|kind| (kind, config.backup.every(kind)));
    let scheduled: Vec<(Kind, Duration)> = scheduled
        .into_iter()
        .filter_map(|(kind, every)| Some((kind, every?)))
        .collect();
    if scheduled.is_empty() && !config.backup.wal && config.backup.verify_every.is_zero() {
        return Err(
            Misconfigured::new("nothing to do: every `backup.*_every` is 0s, and `backup.wal` is false").into(),
        );
    }
    let destination = Destination::open(&config.backup.folder)?;
    let conditions = scheduled
        .iter()
        .map(|(kind, _)| kind.as_str())
        .chain(config.backup.wal.then_some(wal::CONDITION));
    let metrics = metrics::DEFINITIONS;
    let startup = Startup::begin(&program!(), &config.service, &config.telemetry, metrics, conditions).await?;
    let Startup { mut service, readiness } = startup;
    metrics::WAL_LAG.set(f64::NAN);
    for kind in Kind::ALL {
        metrics::show(kind, &destination.backups(kind).await?);
    }

    // Only logs settings of Redis that lose data: they make backups more important.
    if scheduled.iter().any(|(kind, _)| *kind == Kind::Redis)
        && let Err(error) = preflight::check(&config.redis).await
    {
        error!("{error:#}");
    }
    let worker = Worker {
        config,
        destination,
        readiness,
        token: service.token(),
        reading: Arc::default(),
    };
    for (kind, every) in scheduled {
        service.spawn(kind.as_str(), worker.clone().keep_schedule(kind, every));
    }
    if !worker.config.backup.verify_every.is_zero() {
        service.spawn("verify", worker.clone().keep_verifying());
    }
    if worker.config.backup.wal {
        let archiving = wal::archive(worker.config, worker.destination, worker.readiness, worker.token);
        service.spawn("wal", archiving);
    }
    service.run().await
}

impl Worker {
    async fn keep_schedule(self, kind: Kind, every: Duration) -> anyhow::Result<()> {
        let (shortest, longest) = RETRY;
        let mut backoff = Backoff::between(shortest, longest.min(every));
        loop {
            let pause = match self.backup_if_due(kind, every).await {
                Ok(pause) => {
                    backoff.reset();
                    self.readiness.ok(kind.as_str());
                    pause
                }
                Err(error) if Stopped::caused(&error) => return Ok(()),
                Err(error) => {
                    let pause = backoff.pause();
                    error!("{error:#}; next attempt in {pause:.0?}");
                    self.readiness.fail(kind.as_str(), format!("{error:#}"));
                    pause
                }
            };
            self.wait(pause).await?;
        }
    }

    /// Makes a backup if one is due. Returns the time until the next one.
    async fn backup_if_due(&self, kind: Kind, every: Duration) -> anyhow::Result<Duration> {
        if self.until_due(kind, every).await? > Duration::ZERO {
            return self.until_due(kind, every).await;
        }
        let Some(_lock) = self.destination.try_lock(kind.as_str())? else {
            return Ok(TURN_INTERVAL);
        };
        // Another replica may just have made it.
        if self.until_due(kind, every).await? == Duration::ZERO {
            let _reading = self.reading.lock().await;
            let manifest = make(&self.config, &self.destination, kind, &self.token).await?;
            let (content, bytes) = (manifest.content.summary(), size(manifest.size_bytes()));
            info!(name = %manifest.name, "backup of {kind}: {content}, {bytes}");
            self.prune().await;
        }
        self.until_due(kind, every).await
    }

    async fn until_due(&self, kind: Kind, every: Duration) -> anyhow::Result<Duration> {
        let last = self
            .destination
            .backups(kind)
            .await?
            .last()
            .map(|manifest| manifest.started);
        Ok(until_due(last, every, Utc::now()))
    }

    /// Removes superseded backups. A failure is only logged, because the new backup is valid.
    async fn prune(&self) {
        match prune(&self.config.backup, &self.destination, Utc::now(), false).await {
            Ok(pruned) => {
                for (kind, name) in pruned.backups.iter().chain(&pruned.leftovers) {
                    metrics::PRUNED.increment(kind.as_str(), 1);
                    info!("removed {kind}/{name}");
                }
                if pruned.wal_files > 0 {
                    info!("removed {} files from the WAL archive", pruned.wal_files);
                }
            }
            Err(error) => warn!("removing superseded backups: {error:#}"),
        }
        for kind in Kind::ALL {
            if let Ok(backups) = self.destination.backups(kind).await {
                metrics::show(kind, &backups);
            }
        }
    }

    /// Verifies all backups, first one interval after the start: the disk may damage a valid backup.
    async fn keep_verifying(self) -> anyhow::Result<()> {
        loop {
            self.wait(self.config.backup.verify_every).await?;
            if self.verify_all().await? {
                metrics::LAST_VERIFIED.set(seconds(Utc::now()));
            }
        }
    }

    /// Returns `true` if all backups are valid.
    async fn verify_all(&self) -> anyhow::Result<bool> {
        let mut whole = true;
        for kind in Kind::ALL {
            for manifest in self.destination.backups(kind).await.unwrap_or_default() {
                whole &= self.verify(&manifest).await?;
            }
        }
        Ok(whole)
    }

    async fn verify(&self, manifest: &Manifest) -> anyhow::Result<bool> {
        let _reading = self.reading.lock().await;
        let checked = self
            .token
            .run_until_cancelled(problems(&self.config, &self.destination, manifest))
            .await
            .ok_or(Stopped)?;
        // The backup may have been removed since it was listed.
        if !self.destination.folder_of(manifest.kind(), manifest.name).exists() {
            return Ok(true);
        }
        let found = checked.unwrap_or_else(|error| vec![format!("{error:#}")]);
        if !found.is_empty() {
            metrics::VERIFY_FAILURES.increment(manifest.kind().as_str(), 1);
            error!("{}/{} is damaged: {}", manifest.kind(), manifest.name, found.join("; "));
        }
        Ok(found.is_empty())
    }

    async fn wait(&self, pause: Duration) -> Result<(), Stopped> {
        self.token.run_until_cancelled(sleep(pause)).await.ok_or(Stopped)
    }
}

// Times stay far below 2^53.
#[allow(clippy::cast_precision_loss)]
fn seconds(time: DateTime<Utc>) -> f64 {
    time.timestamp() as f64
}
