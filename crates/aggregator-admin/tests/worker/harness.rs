//! aggregator-admin between a Redis and a database of one test.

use storage_core::redis::stream::{AGGREGATOR_ADMIN, Stream};
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::program::{Outcome, Program, Worker};
use storage_core::testing::redis::TestRedis;

pub(crate) struct Stores {
    pub(crate) redis: TestRedis,
    pub(crate) database: TestDatabase,
}

impl Stores {
    /// Creates stores from an empty Redis and `database`, unchanged.
    pub(crate) async fn with(database: TestDatabase) -> Self {
        Self {
            redis: TestRedis::start().await,
            database,
        }
    }

    /// Prepares both stores by `aggregator-admin migrate`.
    pub(crate) async fn ready(database: TestDatabase) -> Self {
        let stores = Self::with(database).await;
        assert_eq!(stores.admin(&["migrate"]).code, Some(0));
        stores
    }

    fn program(&self) -> Program {
        Program::new("aggregator-admin")
            .redis(&self.redis.config())
            .database(&self.database.login("aggregator-admin"))
            .setting("service.instance=admin-1")
    }

    /// Runs a command to its end.
    pub(crate) fn admin(&self, arguments: &[&str]) -> Outcome {
        self.program().output(arguments)
    }

    pub(crate) fn worker(&self) -> Worker {
        self.worker_with(&[])
    }

    /// Starts `aggregator-admin run` with further settings.
    pub(crate) fn worker_with(&self, settings: &[&str]) -> Worker {
        let program = self.program().setting("admin.rollup_collect=100ms");
        let program = settings
            .iter()
            .fold(program, |program, setting| program.setting(setting));
        program.start("admin-1")
    }

    pub(crate) fn warm_syncer(&self) -> Worker {
        Program::new("warm-syncer")
            .redis(&self.redis.config())
            .database(&self.database.login("warm-syncer"))
            .start("warm-syncer-1")
    }

    /// Waits until aggregator-admin has read and acknowledged every entry of `stream`.
    pub(crate) async fn drained(&self, stream: Stream) {
        self.redis.drained(stream, AGGREGATOR_ADMIN).await;
    }
}
