//! The program as a process of its own, between a Redis and a database of the test's own.

use std::fs::{self, File};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use diesel::sql_types::{BigInt, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use storage_core::domain::stream_id::StreamId;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{AGGREGATOR_ADMIN, Fields, Stream, add, range};
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::redis::TestRedis;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

/// Both stores.
pub(crate) struct Stores {
    pub(crate) redis: TestRedis,
    pub(crate) database: TestDatabase,
}

/// What a command said, and how it ended.
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Stores {
    pub(crate) async fn with(database: TestDatabase) -> Self {
        Self {
            redis: TestRedis::start().await,
            database,
        }
    }

    /// Both stores, ready for the pipeline.
    pub(crate) async fn ready(database: TestDatabase) -> Self {
        let stores = Self::with(database).await;
        assert_eq!(stores.admin(&["migrate"]).code, 0);
        stores
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aggregator-admin"));
        command
            .args(args)
            .env_remove("RUST_LOG")
            .env("NO_COLOR", "1")
            .env("REDIS_URL", self.redis.url())
            .env("DATABASE_URL", self.database.login("aggregator-admin").url.expose())
            .env("METRICS_LISTEN", "127.0.0.1:0")
            .env("STORAGE_SERVICE__INSTANCE", "admin-1")
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub(crate) fn admin(&self, args: &[&str]) -> Said {
        let output = self.command(args).output().unwrap();
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Starts `aggregator-admin run`.
    pub(crate) fn worker(&self) -> Worker {
        self.worker_with(&[])
    }

    /// Starts `aggregator-admin run` with more arguments.
    pub(crate) fn worker_with(&self, arguments: &[&str]) -> Worker {
        let folder = TempDir::new().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let child = self
            .command(&["run", "--set", "admin.rollup_collect=100ms"])
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Worker {
            child: child.unwrap(),
            folder,
        }
    }

    /// Adds an entry, and returns its ID.
    pub(crate) async fn add(&self, stream: Stream, fields: &Fields) -> StreamId {
        let id: String = add(stream, fields)
            .query_async(&mut self.redis.connect())
            .await
            .unwrap();
        id.parse().unwrap()
    }

    /// The entries of a stream: fields as `name=value`.
    pub(crate) async fn entries(&self, stream: Stream) -> Vec<String> {
        let last = StreamId {
            ms: u64::MAX,
            seq: u64::MAX,
        };
        let entries = range(&mut self.redis.connect(), stream, StreamId::START, last, 1_000).await;
        let entries = entries.unwrap().into_iter();
        entries
            .map(|entry| entry.fields().map(field).collect::<Vec<_>>().join(" "))
            .collect()
    }

    /// Waits until this worker's group has read and acknowledged everything.
    pub(crate) async fn drained(&self, stream: Stream) {
        let mut redis = self.redis.connect();
        until(&format!("{stream} is drained"), async || {
            let position = position_of(&mut redis, stream, AGGREGATOR_ADMIN).await.unwrap();
            position.is_some_and(|position| position.has_finished())
        })
        .await;
    }

    /// The only number that `query` gives.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = BigInt)]
            number: i64,
        }
        let query = sql_query(format!("SELECT ({query})::bigint AS number"));
        let row: Row = query.get_result(&mut self.database.connect().await).await.unwrap();
        row.number
    }

    /// The only text that `query` gives.
    pub(crate) async fn text(&self, query: &str) -> String {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Text)]
            text: String,
        }
        let query = sql_query(format!("SELECT ({query})::text AS text"));
        let row: Row = query.get_result(&mut self.database.connect().await).await.unwrap();
        row.text
    }

    pub(crate) async fn execute(&self, statements: &str) {
        self.database.connect().await.batch_execute(statements).await.unwrap();
    }
}

/// A running worker; killed when it is dropped.
pub(crate) struct Worker {
    child: Child,
    folder: TempDir,
}

impl Worker {
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    /// Sends SIGTERM, and returns how it ended and what it said.
    pub(crate) async fn stop(mut self) -> (ExitStatus, String) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        self.ended().await
    }

    pub(crate) async fn ended(&mut self) -> (ExitStatus, String) {
        let mut status = None;
        until("the worker ends", async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        (status.unwrap(), self.log())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("the worker's log:\n{}", self.log());
        }
    }
}

/// Asks until the answer is yes.
pub(crate) async fn until(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !ask().await {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn field((name, value): (&[u8], &[u8])) -> String {
    format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
}
