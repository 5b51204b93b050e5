//! `run`: the start of the worker and its tasks.

use std::collections::BTreeMap;

use storage_core::postgres::pool::Pool;
use storage_core::program;
use storage_core::redis::database;
use storage_core::redis::lost::Losses;
use storage_core::retry::keep_running;
use storage_core::service::Service;
use storage_core::startup::{POSTGRES, REDIS, Startup};
use tokio::time::sleep;

use crate::config::Config;
use crate::stores::APPLICATION;
use crate::worker::Worker;
use crate::{adapt, backups, losses, measure, metrics, plan, policies, repairs, rollups, setup, verify};

/// Runs the worker until SIGTERM.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    plan::check::settings(&config.admin)?;
    let metrics = metrics::DEFINITIONS;
    let conditions = [REDIS, POSTGRES];
    let startup = Startup::begin(&program!(), &config.service, &config.telemetry, metrics, conditions).await?;
    startup.check_redis(&config.redis, config.stream.partitions).await?;
    let pool = Pool::new(&config.postgres, APPLICATION);
    let (server, database) = startup.check_postgres(&pool, &config.redis).await?;
    plan::check::windows(&config.admin, server.edition, &BTreeMap::new())?;
    tracing::info!(
        postgres = server.postgres_version,
        timescaledb = server.timescale_version,
        edition = %server.edition,
        scheduler = server.has_scheduler,
        "connected to the history"
    );
    let Startup { mut service, readiness } = startup;
    let worker = Worker {
        config,
        server,
        pool,
        losses: Losses::new(&metrics::LOST_ENTRIES, &readiness),
        readiness,
        token: service.token(),
    };
    service.spawn(
        "database",
        database::watch(worker.redis(), database, worker.token.clone()),
    );
    spawn(&mut service, &worker, "setup", setup::work);
    spawn(&mut service, &worker, "repairs", repairs::work);
    spawn(&mut service, &worker, "rollups", rollups::collect::work);
    spawn(&mut service, &worker, "lots", adapt::work);
    spawn(&mut service, &worker, "backups", backups::work);
    spawn(&mut service, &worker, "policies", policies::work);
    spawn(&mut service, &worker, "measurements", measure::work);
    spawn(&mut service, &worker, "losses", losses::work);
    spawn(&mut service, &worker, "verification", verify::background::work);
    service.run().await
}

/// Spawns the task `name`, which restarts `work` after each failure.
fn spawn<F>(
    service: &mut Service,
    worker: &Worker,
    name: &'static str,
    work: impl Fn(Worker) -> F + Send + Sync + 'static,
) where
    F: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let worker = worker.clone();
    service.spawn(name, async move {
        // A statement may take longer than the grace period, mostly on the embedded server. It is abandoned after half
        // of the period, which is safe: work that was not acknowledged is repeated after the next start.
        let deadline = async {
            worker.token.cancelled().await;
            sleep(worker.config.service.shutdown_grace / 2).await;
        };
        tokio::select! {
            () = keep_running(name, &worker.readiness, &worker.token, || work(worker.clone())) => {}
            () = deadline => tracing::info!(task = name, "abandoned a slow statement; the next start repeats it"),
        }
        Ok(())
    });
}
