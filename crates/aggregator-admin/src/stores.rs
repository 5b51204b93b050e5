//! The stores of a command.

use std::time::Duration;

use anyhow::Context;
use diesel_async::AsyncPgConnection;
use storage_core::config::redis::RedisConfig;
use storage_core::error_class::ErrorClass;
use storage_core::postgres::edition::Server;
use storage_core::postgres::error::Explained;
use storage_core::postgres::migrations;
use storage_core::postgres::pool::{Pool, PooledConnection};
use storage_core::postgres::queries::identity::identity;
use storage_core::redis::connection::{Connection, explained};
use storage_core::redis::stream::{HOT_WRITER, WARM_SYNCER};
use storage_core::redis::{clock, database, lease, partitions};
use storage_core::retry::Retry;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Name of the connections in `pg_stat_activity`.
pub(crate) const APPLICATION: &str = "aggregator-admin";

/// Pause between two attempts.
pub(crate) const PAUSE: Duration = Duration::from_millis(250);

/// Both stores of a command. A connection is opened at its first use.
pub(crate) struct Stores {
    pub(crate) redis: Connection,
    pub(crate) pool: Pool,
}

impl Stores {
    pub(crate) fn new(config: &Config) -> Self {
        let mut postgres = config.postgres.clone();
        // No timeout: counting and comparing all rows may take long, and the operator can end the command.
        postgres.statement_timeout = Duration::ZERO;
        Self {
            redis: Connection::ordinary(&config.redis),
            pool: Pool::new(&postgres, APPLICATION),
        }
    }

    /// Reads the number of partitions from Redis.
    pub(crate) async fn partitions(&mut self) -> anyhow::Result<u16> {
        partitions(&mut self.redis).await
    }
}

/// Reads the number of partitions from Redis.
pub(crate) async fn partitions(redis: &mut Connection) -> anyhow::Result<u16> {
    let stored = partitions::stored(redis)
        .await
        .context("reading the number of partitions from Redis")?;
    Ok(partitions::required(stored)?)
}

/// Returns the workers with a replica that holds a partition, and therefore reads the streams by position.
pub(crate) async fn running(redis: &mut Connection, partitions: u16) -> anyhow::Result<Vec<&'static str>> {
    let mut running = Vec::new();
    for worker in [HOT_WRITER, WARM_SYNCER] {
        let holders = lease::holders(redis, worker, partitions)
            .await
            .with_context(|| format!("reading the leases of {worker}"))?;
        if holders.iter().any(Option::is_some) {
            running.push(worker);
        }
    }
    Ok(running)
}

/// Connects to the database, checks that its schema is of this version, and detects the server.
pub(crate) async fn history(pool: &Pool) -> anyhow::Result<(PooledConnection<'_>, Server)> {
    let mut connection = pool.get().await?;
    let server = migrations::ensure_current(&mut connection).await?;
    Ok((connection, server))
}

/// Fails if Redis belongs to another database.
pub(crate) async fn refuse_other_database(
    redis: &mut Connection,
    connection: &mut AsyncPgConnection,
) -> anyhow::Result<()> {
    let found = identity(connection)
        .await
        .explained("reading the identity of the database")?;
    database::ensure(redis, &found).await
}

/// Repeats `attempt` while its error is transient, for at most `wait`.
pub(crate) async fn retry_within<T, F>(wait: Duration, what: &str, attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let token = CancellationToken::new();
    let retry = Retry::new(format!("waiting up to {wait:?} for {what}"), &token).within(wait);
    retry.run(attempt).await.map_err(|error| match ErrorClass::of(&error) {
        ErrorClass::Transient => error.context(format!("{what} did not answer within {wait:?}")),
        _ => error,
    })
}

/// Waits until Redis answers.
pub(crate) async fn await_redis(config: &RedisConfig, wait: Duration) -> anyhow::Result<()> {
    retry_within(wait, "Redis", async || {
        let answered = clock::now_ms(&mut Connection::ordinary(config)).await;
        answered.map_err(|error| explained(error, config))
    })
    .await?;
    Ok(())
}
