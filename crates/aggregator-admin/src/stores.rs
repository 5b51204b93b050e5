//! Both stores, as a command uses them.

use std::time::{Duration, Instant};

use anyhow::Context;
use diesel_async::AsyncPgConnection;
use redis::RedisError;
use storage_core::config::redis::RedisConfig;
use storage_core::postgres::connection::ConnectError;
use storage_core::postgres::edition::Server;
use storage_core::postgres::error::{Fault, describe};
use storage_core::postgres::migrations::{self, MigrationError};
use storage_core::postgres::pool::{Pool, PooledConnection};
use storage_core::postgres::queries::identity::identity;
use storage_core::redis::connection::{Connection, is_transient};
use storage_core::redis::{clock, database, functions, partitions};

use crate::config::Config;

/// The name that connections to PostgreSQL show.
pub(crate) const APPLICATION: &str = "aggregator-admin";

/// Pause between two attempts.
pub(crate) const PAUSE: Duration = Duration::from_millis(250);

/// Both stores, as one command uses them. Nothing is opened before it is used.
pub(crate) struct Stores {
    pub(crate) redis: Connection,
    pub(crate) pool: Pool,
}

impl Stores {
    pub(crate) fn new(config: &Config) -> Self {
        let mut postgres = config.postgres.clone();
        // Somebody looks on and can end it: counting and comparing everything takes as long as it takes.
        postgres.statement_timeout = Duration::ZERO;
        Self {
            redis: Connection::ordinary(&config.redis),
            pool: Pool::new(&postgres, APPLICATION),
        }
    }

    /// The number of partitions that Redis holds.
    pub(crate) async fn partitions(&mut self) -> anyhow::Result<u16> {
        partitions::required(&mut self.redis).await
    }
}

/// A connection to a database with the schema of this version, and what the server can do.
pub(crate) async fn history(pool: &Pool) -> anyhow::Result<(PooledConnection<'_>, Server)> {
    let mut connection = pool.get().await?;
    let server = migrations::ensure_current(&mut connection).await?;
    Ok((connection, server))
}

/// Refuses to write to two stores that don't belong together.
pub(crate) async fn refuse_other_database(
    redis: &mut Connection,
    connection: &mut AsyncPgConnection,
) -> anyhow::Result<()> {
    let found = identity(connection).await.explained("asking which database this is")?;
    database::ensure(redis, &found).await
}

/// Repeats `attempt` while what it meets may pass, for as long as `wait`.
pub(crate) async fn patiently<T>(
    wait: Duration,
    what: &str,
    mut attempt: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let begin = Instant::now();
    let mut said = false;
    loop {
        match attempt().await {
            Err(error) if passes(&error) && begin.elapsed() < wait => {
                if !std::mem::replace(&mut said, true) {
                    tracing::warn!("waiting up to {wait:?} for {what}: {error:#}");
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) if passes(&error) => return Err(error.context(format!("{what} did not answer within {wait:?}"))),
            result => return result,
        }
    }
}

/// Answers once Redis does.
pub(crate) async fn await_redis(config: &RedisConfig, wait: Duration) -> anyhow::Result<()> {
    let mut redis = Connection::ordinary(config);
    patiently(wait, "Redis", async || {
        clock::now_ms(&mut redis)
            .await
            .with_context(|| format!("asking Redis at {}", config.url))?;
        Ok(())
    })
    .await
}

/// Whether the same may succeed later without anybody doing anything.
pub(crate) fn passes(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let of_redis = || cause.downcast_ref::<RedisError>().is_some_and(is_transient);
        let of_functions =
            || matches!(cause.downcast_ref(), Some(functions::FunctionsError::Redis(error)) if is_transient(error));
        let of_connection = || {
            cause
                .downcast_ref::<ConnectError>()
                .is_some_and(|error| error.fault() == Fault::Transient)
        };
        let of_schema = || {
            cause
                .downcast_ref::<MigrationError>()
                .is_some_and(|error| error.fault() == Fault::Transient)
        };
        let of_statement = || {
            cause
                .downcast_ref::<diesel::result::Error>()
                .is_some_and(|error| Fault::of(error) == Fault::Transient)
        };
        of_redis() || of_functions() || of_connection() || of_schema() || of_statement()
    })
}

/// A failed statement with the database's details and what to do about it.
pub(crate) trait Explained<T> {
    /// Adds what was being done.
    fn explained(self, doing: &str) -> anyhow::Result<T>;
}

impl<T> Explained<T> for diesel::QueryResult<T> {
    fn explained(self, doing: &str) -> anyhow::Result<T> {
        self.map_err(|error| {
            let described = describe(&error);
            anyhow::Error::from(error).context(format!("{doing}: {described}"))
        })
    }
}
