//! The stores of one measurement, and the programs that work on them.

use std::time::Duration;

use acceptance::pipeline::PARTITIONS;
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

/// A Redis and a database of their own, both as `aggregator-admin migrate` leaves them.
pub(super) struct Stores<'a> {
    bench: &'a Bench,
    pub(super) redis: RedisServer,
    pub(super) database: TestDatabase,
    // After the database, as fields are dropped in order.
    _server: Option<NativeServer>,
}

impl<'a> Stores<'a> {
    /// Apache on a native server, Community on the embedded one, which keeps all in memory.
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

    /// What the workers get: where the stores are.
    fn addresses(&self) -> [(&'static str, &str); 2] {
        [("REDIS_URL", self.redis.url()), ("DATABASE_URL", self.database.url())]
    }

    /// Runs aggregator-admin to its end and returns what it printed.
    ///
    /// # Errors
    /// What it says when it fails.
    pub(super) async fn admin(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run("aggregator-admin", arguments).await
    }

    /// Runs one of the programs to its end and returns what it printed.
    ///
    /// # Errors
    /// What it says when it fails.
    pub(super) async fn run(&self, name: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let ended = Program::new(name).envs(self.addresses()).run(arguments).await;
        ensure!(ended.code == Some(0), "{name} {arguments:?}: {}", ended.stderr);
        Ok(ended.stdout)
    }

    /// Starts a copy of warm-syncer as by default. It ends when it is dropped.
    pub(super) fn syncer(&self, copy: &str) -> Worker {
        let [redis, database] = self.addresses();
        let environment = [redis, database, ("STORAGE_SERVICE__INSTANCE", copy)];
        self.bench.worker("warm-syncer", &environment)
    }

    /// A session with the database, for what the figures are compared with.
    ///
    /// # Errors
    /// When it can't be opened.
    pub(super) async fn session(&self) -> anyhow::Result<Session> {
        let (client, connection) = tokio_postgres::connect(self.database.url(), NoTls).await?;
        let connection = tokio::spawn(async move {
            // What breaks it fails the query that waits for it.
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
    /// Empties a table and has the server write down what is left to write, so that each measurement begins alike.
    ///
    /// # Errors
    /// The database's.
    pub(super) async fn empty(&self, table: &str) -> anyhow::Result<()> {
        self.client.batch_execute(&format!("TRUNCATE {table}")).await?;
        Ok(self.client.batch_execute("CHECKPOINT").await?)
    }

    /// The number that a query gives.
    ///
    /// # Errors
    /// The database's.
    pub(super) async fn number(&self, sql: &str) -> anyhow::Result<i64> {
        Ok(self.client.query_one(sql, &[]).await?.try_get(0)?)
    }

    /// Ends it: the embedded server has one session, and the next client waits for this one's end.
    pub(super) async fn close(self) {
        drop(self.client);
        let _ = self.connection.await;
    }
}

/// The streams of a kind, by partition.
pub(super) fn streams(of: fn(u16) -> Stream) -> impl Iterator<Item = Stream> {
    (0..PARTITIONS).map(of)
}

/// Things a second.
pub(super) fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}
