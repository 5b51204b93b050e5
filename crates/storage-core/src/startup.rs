//! The start of a worker: logs, signals, `/metrics`, and the checks of both stores, which wait while a store is down.

use anyhow::Context;
use diesel_async::AsyncPgConnection;
use tracing::level_filters::LevelFilter;

use crate::cli::Program;
use crate::config::redis::RedisConfig;
use crate::config::service::ServiceConfig;
use crate::config::telemetry::TelemetryConfig;
use crate::domain::database_identity::DatabaseIdentity;
use crate::postgres::edition::Server;
use crate::postgres::error::Explained;
use crate::postgres::migrations;
use crate::postgres::pool::Pool;
use crate::postgres::queries::identity::{clock_ms, identity, risks};
use crate::redis::clock::now_ms;
use crate::redis::connection::{Connection, explained};
use crate::redis::{database, startup};
use crate::retry::Retry;
use crate::service::Service;
use crate::telemetry;
use crate::telemetry::metrics::Definitions;
use crate::telemetry::readiness::Readiness;

/// Condition of `/readyz` for Redis.
pub const REDIS: &str = "redis";
/// Condition of `/readyz` for PostgreSQL.
pub const POSTGRES: &str = "postgres";

/// A worker that is starting.
#[derive(Debug)]
pub struct Startup {
    /// Owner of the worker's tasks.
    pub service: Service,
    /// The conditions of `/readyz`.
    pub readiness: Readiness,
}

impl Startup {
    /// Starts logging, listens to signals, and serves `/metrics`, `/healthz` and `/readyz`. None of `conditions` holds
    /// yet.
    pub async fn begin(
        program: &Program,
        service: &ServiceConfig,
        telemetry: &TelemetryConfig,
        metrics: Definitions,
        conditions: impl IntoIterator<Item = &'static str>,
    ) -> anyhow::Result<Self> {
        telemetry::tracing::init(telemetry.log_format, LevelFilter::INFO)?;
        let mut service = Service::new(service)?;
        let readiness = Readiness::waiting_for(conditions);
        telemetry::serve(&mut service, telemetry, program, metrics, &readiness).await?;
        Ok(Self { service, readiness })
    }

    /// Checks the settings of Redis, its number of partitions and its functions.
    ///
    /// # Errors
    /// An error that is not transient, or [`Stopped`](crate::service::Stopped).
    pub async fn check_redis(&self, config: &RedisConfig, partitions: u16) -> anyhow::Result<()> {
        Retry::new("checking Redis", &self.service.token())
            .readiness(&self.readiness, REDIS)
            .run(|| startup::check(config, partitions))
            .await
    }

    /// Checks that the schema is of this version and that Redis belongs to the database, and logs settings that risk
    /// data; from then on `pool` connects to this database only.
    ///
    /// # Errors
    /// An error that is not transient, or [`Stopped`](crate::service::Stopped).
    pub async fn check_postgres(&self, pool: &Pool, redis: &RedisConfig) -> anyhow::Result<(Server, DatabaseIdentity)> {
        let (server, found) = Retry::new("checking PostgreSQL", &self.service.token())
            .readiness(&self.readiness, POSTGRES)
            .run(async || {
                let mut connection = pool.get().await?;
                let server = migrations::ensure_current(&mut connection).await?;
                let found = identity(&mut connection)
                    .await
                    .explained("reading the identity of the database")?;
                let stored = database::stored(&mut Connection::ordinary(redis))
                    .await
                    .map_err(|error| explained(error, redis))
                    .context("reading the database that Redis belongs to")?;
                database::check(stored.as_ref(), &found)?;
                anyhow::Ok((server, found))
            })
            .await?;
        pool.keep_to(found.clone());
        match warnings(pool, redis).await {
            Ok(found) => found.iter().for_each(|warning| tracing::warn!("{warning}")),
            Err(error) => tracing::warn!("checking the settings of the stores failed: {error:#}"),
        }
        Ok((server, found))
    }
}

async fn warnings(pool: &Pool, redis: &RedisConfig) -> anyhow::Result<Vec<String>> {
    let mut connection = pool.get().await?;
    let risks = risks(&mut connection)
        .await
        .explained("reading the server's settings")?;
    let differing = differing_clocks(&mut connection, &mut Connection::ordinary(redis)).await?;
    Ok(risks.into_iter().chain(differing).collect())
}

/// Largest difference between the clocks of both stores that is not reported.
const MAX_CLOCK_DIFFERENCE_MS: i64 = 1_000;

/// Returns a warning if the clocks of both stores differ. By that of Redis ticks are accepted and candles closed, by
/// that of PostgreSQL chunks are compressed and dropped.
pub async fn differing_clocks(
    connection: &mut AsyncPgConnection,
    redis: &mut Connection,
) -> anyhow::Result<Option<String>> {
    let redis_ms = now_ms(redis).await.context("reading the clock of Redis")?;
    let postgres_ms = clock_ms(connection)
        .await
        .explained("reading the clock of PostgreSQL")?;
    let ahead_ms = redis_ms.cast_signed() - postgres_ms;
    Ok((ahead_ms.abs() > MAX_CLOCK_DIFFERENCE_MS).then(|| {
        let (seconds, word) = (ahead_ms.abs() / 1_000, if ahead_ms > 0 { "ahead of" } else { "behind" });
        format!("the clock of Redis is {seconds} s {word} that of PostgreSQL; synchronise both by NTP")
    }))
}
