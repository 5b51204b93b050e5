//! warm-syncer between a Redis and a database of one test.

use storage_core::config::postgres::PostgresConfig;
use storage_core::config::redis::RedisConfig;
use storage_core::postgres::queries::identity::identity;
use storage_core::redis::database;
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::program::{Program, Worker};
use storage_core::testing::redis::TestRedis;

pub(crate) const PARTITIONS: u16 = 2;

pub(crate) struct Stores {
    pub(crate) redis: TestRedis,
    pub(crate) database: TestDatabase,
}

impl Stores {
    /// Prepares both stores for workers.
    pub(crate) async fn with(database: TestDatabase) -> Self {
        let redis = TestRedis::prepared(PARTITIONS).await;
        let found = identity(&mut database.connect().await).await.unwrap();
        database::store_once(&mut redis.connect(), &found).await.unwrap();
        Self { redis, database }
    }

    pub(crate) fn program(&self) -> Program {
        program(&self.redis.config(), &self.database.login("warm-syncer"))
    }

    /// Starts the replica `instance`.
    pub(crate) fn worker(&self, instance: &str) -> Worker {
        self.program().start(instance)
    }

    /// Waits until warm-syncer has read and acknowledged every entry of `streams`.
    pub(crate) async fn drained(&self, streams: &[Stream]) {
        for stream in streams {
            self.redis.drained(*stream, WARM_SYNCER).await;
        }
    }
}

pub(crate) fn program(redis: &RedisConfig, database: &PostgresConfig) -> Program {
    Program::new("warm-syncer")
        .redis(redis)
        .database(database)
        .setting(&format!("stream.partitions={PARTITIONS}"))
}
