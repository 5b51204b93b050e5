//! `run`: waits for both stores, checks that they are meant for this version and configuration, and starts the tasks.

use std::time::Duration;

use storage_core::config::Misconfigured;
use storage_core::domain::database_identity::DatabaseIdentity;
use storage_core::postgres::edition::Server;
use storage_core::postgres::migrations::{self, MigrationError};
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::identity::identity;
use storage_core::redis::connection::Connection;
use storage_core::redis::database;
use storage_core::redis::functions::{self, FunctionsError};
use storage_core::redis::group_reader::{GroupReader, GroupReaderOptions};
use storage_core::redis::lost::Losses;
use storage_core::redis::stream::{AGGREGATOR_ADMIN, Stream};
use storage_core::redis::{partitions, preflight};
use storage_core::retry::{Retry, keep_running};
use storage_core::service::Service;
use storage_core::telemetry;
use storage_core::telemetry::readiness::Readiness;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use crate::config::Config;
use crate::plan::objections;
use crate::stores::{self, APPLICATION, Explained};
use crate::{backups, measure, metrics, policies, repairs, rollups, setup};

/// How long a read waits for an entry; a shutdown waits as long.
pub(crate) const BLOCK: Duration = Duration::from_millis(500);

/// What every task works with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) config: Config,
    pub(crate) server: Server,
    pub(crate) pool: Pool,
    pub(crate) readiness: Readiness,
    pub(crate) losses: Losses,
    pub(crate) token: CancellationToken,
}

impl Worker {
    /// This copy's name.
    pub(crate) fn instance(&self) -> String {
        self.config.service.instance(&self.config.telemetry)
    }

    /// A connection for ordinary commands.
    pub(crate) fn redis(&self) -> Connection {
        Connection::ordinary(&self.config.redis)
    }

    /// A member of this worker's group on `stream`, which begins with what it was handed before.
    pub(crate) fn reader(&self, stream: Stream) -> GroupReader {
        let options = GroupReaderOptions {
            group: AGGREGATOR_ADMIN,
            consumer: self.instance(),
            batch: self.config.admin.batch,
            block: BLOCK,
            claim_after: self.config.admin.claim_after,
            losses: self.losses.clone(),
        };
        GroupReader::new(&self.config.redis, stream, options)
    }
}

/// Works until the process is told to stop.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::tracing::init(config.telemetry.log_format, LevelFilter::INFO)?;
    let objections = objections(&config.admin);
    if !objections.is_empty() {
        return Err(Misconfigured::new(objections.join("; ")).into());
    }
    let mut service = Service::new(&config.service)?;
    let token = service.token();
    let readiness = Readiness::waiting_for(["redis", "postgres"]);
    let version = env!("CARGO_PKG_VERSION");
    telemetry::serve(
        &mut service,
        &config.telemetry,
        "aggregator_admin",
        version,
        &[metrics::DEFINITIONS],
        &readiness,
    )
    .await?;

    Retry::new("checking what Redis holds", &token)
        .readiness(&readiness, "redis")
        .permanent_if(|error| !stores::passes(error))
        .run(|| check_redis(&config))
        .await?;
    let pool = Pool::new(&config.postgres, APPLICATION);
    let (server, database) = Retry::new("checking the database", &token)
        .readiness(&readiness, "postgres")
        .permanent_if(|error| !stores::passes(error))
        .run(|| check_postgres(&pool, &config))
        .await?;
    pool.keep_to(database.clone());
    tracing::info!(
        postgres = server.postgres_version,
        timescaledb = server.timescale_version,
        edition = %server.edition,
        scheduler = server.has_scheduler,
        "keeping the history in order"
    );
    let worker = Worker {
        config,
        server,
        pool,
        losses: Losses::new(&metrics::LOST_ENTRIES, &readiness),
        readiness,
        token,
    };
    service.spawn(
        "database",
        database::watch(worker.redis(), database, worker.token.clone()),
    );
    spawn(&mut service, &worker, "setup", setup::work);
    spawn(&mut service, &worker, "repairs", repairs::work);
    spawn(&mut service, &worker, "rollups", rollups::collect::work);
    spawn(&mut service, &worker, "backups", backups::work);
    spawn(&mut service, &worker, "policies", policies::work);
    spawn(&mut service, &worker, "measurements", measure::work);
    service.run().await
}

/// Keeps `work` running as the task `name`.
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
        // A statement may take longer than the grace period, on the embedded server above all. Every task can end at any
        // statement, as it is repeated until it is acknowledged, so a slow one is abandoned while there is time to end.
        let deadline = async {
            worker.token.cancelled().await;
            sleep(worker.config.service.shutdown_grace / 2).await;
        };
        tokio::select! {
            () = keep_running(name, &worker.readiness, &worker.token, || work(worker.clone())) => {}
            () = deadline => tracing::info!(task = name, "abandoned a slow statement; it is repeated after the next start"),
        }
        Ok(())
    });
}

async fn check_redis(config: &Config) -> anyhow::Result<()> {
    preflight::check(&config.redis).await?;
    let mut redis = Connection::ordinary(&config.redis);
    let stored = partitions::stored(&mut redis).await?;
    partitions::check(stored, config.stream.partitions)?;
    functions::check(&mut redis).await.map_err(|error| match error {
        FunctionsError::Redis(error) => error.into(),
        outdated => Misconfigured::new(outdated.to_string()).into(),
    })
}

async fn check_postgres(pool: &Pool, config: &Config) -> anyhow::Result<(Server, DatabaseIdentity)> {
    let mut connection = pool.get().await?;
    let server = migrations::ensure_current(&mut connection)
        .await
        .map_err(|error| match error {
            MigrationError::Database(_) => anyhow::Error::from(error),
            unusable => Misconfigured::new(unusable.to_string()).into(),
        })?;
    let found = identity(&mut connection)
        .await
        .explained("asking which database this is")?;
    database::ensure(&mut Connection::ordinary(&config.redis), &found).await?;
    Ok((server, found))
}
