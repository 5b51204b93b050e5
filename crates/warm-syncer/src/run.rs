//! Runs the worker: waits for both stores, checks that they are meant for this version and configuration, and starts a lane for
//! each stream.

use storage_core::config::Misconfigured;
use storage_core::postgres::connection::ConnectError;
use storage_core::postgres::error::Fault;
use storage_core::postgres::migrations::{self, MigrationError};
use storage_core::postgres::pool::Pool;
use storage_core::redis::connection::Connection;
use storage_core::redis::startup;
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use storage_core::retry::Retry;
use storage_core::service::Service;
use storage_core::telemetry;
use storage_core::telemetry::readiness::Readiness;
use tokio::sync::Mutex;
use tracing::info;
use tracing::level_filters::LevelFilter;

use crate::config::Config;
use crate::kinds::Kind;
use crate::kinds::candles::Candles;
use crate::kinds::dead_letters::DeadLetters;
use crate::kinds::signals::Signals;
use crate::kinds::ticks::Ticks;
use crate::lane::{Ending, Lane};
use crate::read::{Cut, Reader};
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
    Retry::new("asking PostgreSQL for its schema", &stop)
        .readiness(&readiness, "postgres")
        .permanent_if(is_permanent_in_postgres)
        .run(async || check_schema(&pool).await)
        .await?;

    let crew = Crew {
        consumer: config.service.instance(&config.telemetry),
        ending: Ending::new(stop),
        config,
        pool,
        readiness,
    };
    let streams = crew.start(&mut service);
    info!(
        consumer = crew.consumer,
        streams = streams.len(),
        "writing to TimescaleDB"
    );
    service.spawn_background("give up", crew.ending.clone().watch(crew.config.service.shutdown_grace));
    let redis = Connection::ordinary(&crew.config.redis);
    service.spawn_background(
        "backlog",
        backlog::watch(redis, crew.pool.clone(), streams, crew.readiness.clone()),
    );
    service.run().await
}

async fn check_schema(pool: &Pool) -> anyhow::Result<()> {
    match migrations::ensure_current(&mut *pool.get().await?).await {
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

/// What every lane is made with.
struct Crew {
    config: Config,
    consumer: String,
    pool: Pool,
    readiness: Readiness,
    ending: Ending,
}

impl Crew {
    /// Starts a lane for each stream, and returns the streams.
    fn start(&self, service: &mut Service) -> Vec<Stream> {
        let partitions = self.config.stream.partitions;
        let rows = self.config.warm.batch_rows;
        for partition in 0..partitions {
            let candles = Candles {
                partition,
                refresh_window: self.config.warm.refresh_window,
            };
            self.start_lane(service, Stream::Candles(partition), candles, rows);
            let ticks = Ticks {
                partition,
                partitions,
                max_future: self.config.stream.max_future,
            };
            self.start_lane(
                service,
                Stream::Ticks(partition),
                ticks,
                self.config.warm.tick_batch_rows,
            );
        }
        self.start_lane(service, Stream::Signals, Signals, rows);
        self.start_lane(service, Stream::Dead, DeadLetters, rows);
        Stream::all(partitions)
            .into_iter()
            .filter(|stream| stream.groups().contains(&WARM_SYNCER))
            .collect()
    }

    fn start_lane(&self, service: &mut Service, stream: Stream, kind: impl Kind, rows: usize) {
        let (redis, warm) = (&self.config.redis, &self.config.warm);
        let cut = Cut {
            rows,
            wait: warm.batch_wait,
        };
        let lane = Lane {
            stream,
            kind,
            reader: Mutex::new(Reader::new(redis, stream, self.consumer.clone(), warm.claim_after, cut)),
            redis: Mutex::new(Connection::ordinary(redis)),
            pool: self.pool.clone(),
            readiness: self.readiness.clone(),
            ending: self.ending.clone(),
        };
        service.spawn(stream.to_string(), lane.run());
    }
}
