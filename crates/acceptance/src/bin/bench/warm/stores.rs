//! Stores of one measurement, and programs that run on them.

use std::time::Duration;

use acceptance::producer::PARTITIONS;
use acceptance::redis_server::RedisServer;
use anyhow::{Context, ensure};
use storage_core::postgres::edition::Edition;
use storage_core::redis::stream::Stream;
use storage_core::testing::native::NativeServer;
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::program::{Program, Worker};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls};

use crate::bench::Bench;

/// A Redis and a database, prepared by `aggregator-admin migrate`.
pub(super) struct Stores<'a> {
    bench: &'a Bench,
    pub(super) redis: RedisServer,
    pub(super) database: TestDatabase,
    // This field comes after the database, because fields are dropped in order.
    _server: Option<NativeServer>,
}

impl<'a> Stores<'a> {
    /// Starts the Apache edition on a native server, or the Community edition on the embedded server, which stores data
    /// in memory.
    pub(super) async fn start(bench: &'a Bench, edition: Edition) -> anyhow::Result<Self> {
        let server = match edition {
            Edition::Apache => Some(bench.postgres().await?),
            Edition::Community => None,
        };
        let database = match &server {
            Some(server) => TestDatabase::on(server).await?,
            None => {
                let embedded = TestDatabase::start_empty(edition).await;
                embedded.context("no embedded server here; run `scripts/services tools`")?
            }
        };
        let stores = Self {
            bench,
            redis: RedisServer::start().await?,
            database,
            _server: server,
        };
        stores.admin(&["migrate"]).await?;
        Ok(stores)
    }

    /// Returns the variables with the URLs of the stores.
    fn addresses(&self) -> [(&'static str, &str); 2] {
        [("REDIS_URL", self.redis.url()), ("DATABASE_URL", self.database.url())]
    }

    /// Runs a command of aggregator-admin and returns its output.
    pub(super) async fn admin(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run("aggregator-admin", arguments).await
    }

    /// Runs a command of a program and returns its output.
    pub(super) async fn run(&self, name: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let ended = Program::new(name).envs(self.addresses()).run(arguments).await;
        ensure!(ended.code == Some(0), "{name} {arguments:?}: {}", ended.stderr);
        Ok(ended.stdout)
    }

    /// Starts a replica of warm-syncer with the default configuration. Dropping it ends it.
    pub(super) fn syncer(&self, replica: &str) -> Worker {
        let [redis, database] = self.addresses();
        let environment = [redis, database, ("STORAGE_SERVICE__INSTANCE", replica)];
        self.bench.worker("warm-syncer", &environment)
    }

    /// Opens a session with the database, for measuring the baseline.
    pub(super) async fn session(&self) -> anyhow::Result<Session> {
        let (client, connection) = tokio_postgres::connect(self.database.url(), NoTls).await?;
        let connection = tokio::spawn(async move {
            // An error also fails the query that waits for the reply.
            let _ = connection.await;
        });
        Ok(Session { client, connection })
    }
}

/// A session with the database.
pub(super) struct Session {
    pub(super) client: Client,
    connection: JoinHandle<()>,
}

impl Session {
    /// Truncates a table and runs a checkpoint, so that every measurement starts in the same state.
    pub(super) async fn empty(&self, table: &str) -> anyhow::Result<()> {
        self.client.batch_execute(&format!("TRUNCATE {table}")).await?;
        Ok(self.client.batch_execute("CHECKPOINT").await?)
    }

    /// Returns the only value of a query.
    pub(super) async fn number(&self, sql: &str) -> anyhow::Result<i64> {
        Ok(self.client.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// Closes the session. The embedded server has one session, for which the next client waits.
    pub(super) async fn close(self) {
        drop(self.client);
        let _ = self.connection.await;
    }
}

/// Returns the streams of a kind, by partition.
pub(super) fn streams(of: fn(u16) -> Stream) -> impl Iterator<Item = Stream> {
    (0..PARTITIONS).map(of)
}

/// Returns a count per second.
pub(super) fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}
