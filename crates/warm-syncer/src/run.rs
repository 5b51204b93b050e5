//! Runs the worker: waits for both stores, checks that they are meant for this version and configuration, and serves the partitions
//! that this copy owns, with a pipeline for each stream.

use diesel_async::AsyncPgConnection;
use storage_core::config::Misconfigured;
use storage_core::config::redis::RedisConfig;
use storage_core::domain::database_identity::DatabaseIdentity;
use storage_core::domain::tick_rules::TickRules;
use storage_core::postgres::connection::ConnectError;
use storage_core::postgres::error::Fault;
use storage_core::postgres::migrations::{self, MigrationError};
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::identity::identity;
use storage_core::redis::connection::Connection;
use storage_core::redis::database;
use storage_core::redis::lost::Losses;
use storage_core::redis::ownership::Ownership;
use storage_core::redis::startup;
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use storage_core::retry::Retry;
use storage_core::service::Service;
use storage_core::telemetry;
use storage_core::telemetry::readiness::Readiness;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::level_filters::LevelFilter;

use crate::config::Config;
use crate::kinds::Kind;
use crate::kinds::candles::Candles;
use crate::kinds::dead_letters::DeadLetters;
use crate::kinds::signals::Signals;
use crate::kinds::ticks::Ticks;
use crate::pipeline::{Shutdown, StreamPipeline};
use crate::read::{BatchLimits, Reader};
use crate::{backlog, metrics};

/// Works until the process is told to stop.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    telemetry::tracing::init(config.telemetry.log_format, LevelFilter::INFO)?;
    let mut service = Service::new(&config.service)?;
    let readiness = Readiness::waiting_for(["redis", "postgres"]);
    telemetry::serve(
        &mut service,
        &config.telemetry,
        "warm_syncer",
        env!("CARGO_PKG_VERSION"),
        &[metrics::DEFINITIONS],
        &readiness,
    )
    .await?;

    let stop = service.token();
    Retry::new("checking what Redis holds", &stop)
        .readiness(&readiness, "redis")
        .permanent_if(startup::is_permanent)
        .run(async || startup::check(&config.redis, config.stream.partitions).await)
        .await?;
    let pool = Pool::new(&config.postgres, WARM_SYNCER);
    let database = Retry::new("checking the database", &stop)
        .readiness(&readiness, "postgres")
        .permanent_if(|error| is_permanent_in_postgres(error) || startup::is_permanent(error))
        .run(async || check_database(&pool, &config.redis).await)
        .await?;
    pool.keep_to(database.clone());

    let redis = Connection::ordinary(&config.redis);
    let streams = Stream::all(config.stream.partitions).into_iter();
    let streams = streams
        .filter(|stream| stream.groups().contains(&WARM_SYNCER))
        .collect();
    service.spawn_background(
        "backlog",
        backlog::watch(redis, pool.clone(), streams, readiness.clone()),
    );
    service.spawn("partitions", own(config, pool, database, readiness, stop));
    service.run().await
}

/// Serves this copy's share of the partitions until `stop` is cancelled, then gives them back.
async fn own(
    config: Config,
    pool: Pool,
    database: DatabaseIdentity,
    readiness: Readiness,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let ownership = Ownership {
        redis: &config.redis,
        worker: WARM_SYNCER,
        instance: config.service.instance(&config.telemetry),
        partitions: config.stream.partitions,
        database: Some(&database),
        lease_ttl: config.warm.lease_ttl,
        count: &metrics::PARTITIONS,
    };
    let losses = Losses::new(&metrics::LOST_ENTRIES, &readiness);
    let serve = |partition, stop| {
        let tasks = PartitionTasks {
            config: config.clone(),
            pool: pool.clone(),
            readiness: readiness.clone(),
            losses: losses.clone(),
            shutdown: Shutdown::new(stop),
        };
        tasks.serve(partition)
    };
    ownership.own(&readiness, &stop, serve).await
}

/// The database, with the schema of this version, that Redis belongs to.
async fn check_database(pool: &Pool, redis: &RedisConfig) -> anyhow::Result<DatabaseIdentity> {
    let mut connection = pool.get().await?;
    check_schema(&mut connection).await?;
    let found = identity(&mut connection).await?;
    database::ensure(&mut Connection::ordinary(redis), &found).await?;
    Ok(found)
}

async fn check_schema(connection: &mut AsyncPgConnection) -> anyhow::Result<()> {
    match migrations::ensure_current(connection).await {
        Ok(_) => Ok(()),
        Err(
            error @ (MigrationError::Behind { .. }
            | MigrationError::Unknown { .. }
            | MigrationError::NoTimescale { .. }),
        ) => Err(Misconfigured::new(error.to_string()).into()),
        Err(error) => Err(error.into()),
    }
}

/// A wrong password, a database that does not exist, a schema of another version: no waiting helps.
fn is_permanent_in_postgres(error: &anyhow::Error) -> bool {
    let fault = error
        .downcast_ref::<ConnectError>()
        .map(ConnectError::fault)
        .or_else(|| error.downcast_ref::<MigrationError>().map(MigrationError::fault));
    Misconfigured::caused(error) || fault == Some(Fault::Permanent)
}

/// Creates the pipelines of a partition and runs them.
struct PartitionTasks {
    config: Config,
    pool: Pool,
    readiness: Readiness,
    losses: Losses,
    shutdown: Shutdown,
}

impl PartitionTasks {
    /// Works on the streams of a partition until told to stop; the owner of the first one also on those that have no partitions.
    async fn serve(self, partition: u16) {
        let rows = self.config.warm.batch_rows;
        let candles = Candles {
            partition,
            refresh_window: self.config.warm.refresh_window,
        };
        let ticks = Ticks(TickRules {
            partition,
            partitions: self.config.stream.partitions,
            max_future: self.config.stream.max_future,
        });
        let mut pipelines = JoinSet::new();
        self.start_pipeline(&mut pipelines, Stream::Candles(partition), candles, rows);
        self.start_pipeline(
            &mut pipelines,
            Stream::Ticks(partition),
            ticks,
            self.config.warm.tick_batch_rows,
        );
        if partition == 0 {
            self.start_pipeline(&mut pipelines, Stream::Signals, Signals, rows);
            self.start_pipeline(&mut pipelines, Stream::Dead, DeadLetters, rows);
        }
        let _watch = AbortOnDropHandle::new(tokio::spawn(
            self.shutdown.clone().watch(self.config.service.shutdown_grace),
        ));
        pipelines.join_all().await;
    }

    fn start_pipeline(&self, pipelines: &mut JoinSet<()>, stream: Stream, kind: impl Kind, rows: usize) {
        let redis = &self.config.redis;
        let limits = BatchLimits {
            rows,
            wait: self.config.warm.batch_wait,
        };
        let pipeline = StreamPipeline {
            stream,
            kind,
            reader: Mutex::new(Reader::new(redis, stream, limits, self.losses.clone())),
            losses: self.losses.clone(),
            redis: Mutex::new(Connection::ordinary(redis)),
            pool: self.pool.clone(),
            readiness: self.readiness.clone(),
            shutdown: self.shutdown.clone(),
        };
        pipelines.spawn(pipeline.run());
    }
}
