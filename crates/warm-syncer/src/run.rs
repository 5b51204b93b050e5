//! Starts the worker, and runs a pipeline for each stream of the partitions that this replica serves.

use std::time::Duration;

use storage_core::config::Misconfigured;
use storage_core::domain::database_identity::DatabaseIdentity;
use storage_core::domain::tick_rules::TickRules;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::Explained;
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::policies::{self, JobKind};
use storage_core::program;
use storage_core::redis::connection::Connection;
use storage_core::redis::lost::Losses;
use storage_core::redis::ownership::Ownership;
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use storage_core::retry::Retry;
use storage_core::startup::{POSTGRES, REDIS, Startup};
use storage_core::telemetry::readiness::Readiness;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::backlog::RefreshWindow;
use crate::config::Config;
use crate::kinds::Kind;
use crate::kinds::candles::Candles;
use crate::kinds::dead_letters::DeadLetters;
use crate::kinds::feeds::Feeds;
use crate::kinds::signals::Signals;
use crate::kinds::ticks::Ticks;
use crate::pipeline::{Shutdown, StreamPipeline};
use crate::read::{BatchLimits, Reader};
use crate::{backlog, metrics};

/// Runs the worker until SIGTERM.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let metrics = metrics::DEFINITIONS;
    let conditions = [REDIS, POSTGRES];
    let startup = Startup::begin(&program!(), &config.service, &config.telemetry, metrics, conditions).await?;
    startup.check_redis(&config.redis, config.stream.partitions).await?;
    let pool = Pool::new(&config.postgres, WARM_SYNCER);
    let (server, database) = startup.check_postgres(&pool, &config.redis).await?;
    Retry::new("checking the refresh window", &startup.service.token())
        .readiness(&startup.readiness, POSTGRES)
        .run(|| check_window(&pool, server.edition, config.warm.refresh_window))
        .await?;

    let Startup { mut service, readiness } = startup;
    let stop = service.token();
    let redis = Connection::ordinary(&config.redis);
    let streams = Stream::all(config.stream.partitions).into_iter();
    let streams = streams
        .filter(|stream| stream.groups().contains(&WARM_SYNCER))
        .collect();
    let window = RefreshWindow {
        replica: config.service.instance(&config.telemetry),
        age: config.warm.refresh_window,
    };
    service.spawn_background(
        "backlog",
        backlog::watch(redis, pool.clone(), streams, window, readiness.clone()),
    );
    service.spawn("partitions", own(config, pool, database, readiness, stop));
    service.run().await
}

/// Refuses a refresh window that the refresh policies do not reach: no refresh would see minutes that change between
/// both ages. A bucket is refreshed only if all of it is in the window of its policy, and each policy sees a change
/// only when that of the next smaller timeframe has run.
async fn check_window(pool: &Pool, edition: Edition, window: Duration) -> anyhow::Result<()> {
    let mut connection = pool.get().await?;
    let jobs = policies::jobs(&mut connection, edition)
        .await
        .explained("reading the policies")?;
    let refreshes = jobs.iter().filter(|job| job.kind == JobKind::Refresh);
    let Some(reached) = refreshes.clone().filter_map(|job| job.age).min() else {
        return Ok(());
    };
    let largest = Duration::from_secs(Timeframe::D1.seconds().unsigned_abs());
    let delay: Duration = refreshes.map(|job| job.every).sum();
    if window + largest + delay <= reached {
        return Ok(());
    }
    let days = humantime_serde::re::humantime::format_duration;
    Err(Misconfigured::new(format!(
        "warm.refresh_window is {} but must be at most {}, which is a day and {}, in which every timeframe is \
         refreshed, less than the policies of the database reach; set it, or run `aggregator-admin apply --set \
         admin.refresh_window={}`",
        days(window),
        days(reached.saturating_sub(largest + delay)),
        days(delay),
        days(window + largest + delay).to_string().replace(' ', "")
    ))
    .into())
}

/// Serves this replica's share of the partitions until `stop` is cancelled, then releases them.
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
    ownership.run(&readiness, &stop, serve).await
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
    /// Runs the pipelines of a partition until the shutdown. The owner of partition 0 also runs those of the streams
    /// without partitions.
    async fn serve(self, partition: u16) {
        let rows = self.config.warm.batch_rows;
        let before_1973 = self.config.stream.before_1973;
        let candles = Candles {
            partition,
            refresh_window: self.config.warm.refresh_window,
        };
        let ticks = Ticks(TickRules {
            partition,
            partitions: self.config.stream.partitions,
            max_future: self.config.stream.max_future,
            before_1973,
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
            self.start_pipeline(&mut pipelines, Stream::Signals, Signals { before_1973 }, rows);
            let feeds = Feeds {
                timeout: self.config.warm.feed_timeout,
                before_1973,
            };
            self.start_pipeline(&mut pipelines, Stream::Feeds, feeds, rows);
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
