//! The worker as a process of its own, between a Redis and a database of the test's own.

use std::fs::{self, File};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use diesel::sql_types::{BigInt, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use storage_core::domain::stream_id::StreamId;
use storage_core::postgres::queries::identity::identity;
use storage_core::redis::connection::Connection;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{Stream, WARM_SYNCER, range};
use storage_core::redis::{database as noted, functions, partitions};
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::redis::TestRedis;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) const PARTITIONS: u16 = 2;
const PATIENCE: Duration = Duration::from_secs(60);

/// Both stores, ready for workers.
pub(crate) struct Stores {
    pub(crate) redis: TestRedis,
    pub(crate) database: TestDatabase,
}

impl Stores {
    pub(crate) async fn with(database: TestDatabase) -> Self {
        let redis = TestRedis::start().await;
        partitions::store_once(&mut redis.connect(), PARTITIONS).await.unwrap();
        functions::load(&mut redis.connect()).await.unwrap();
        let found = identity(&mut database.connect().await).await.unwrap();
        noted::store_once(&mut redis.connect(), &found).await.unwrap();
        Self { redis, database }
    }

    /// A worker called `instance`.
    pub(crate) fn worker(&self, instance: &str) -> Worker {
        Worker::start(
            self.redis.url(),
            self.database.login("warm-syncer").url.expose(),
            &[("STORAGE_SERVICE__INSTANCE", instance)],
        )
    }

    pub(crate) async fn add(&self, stream: Stream, entries: &[Vec<(&str, String)>]) {
        let mut connection = self.redis.connect();
        for some in entries.chunks(1_000) {
            let mut pipeline = redis::pipe();
            for fields in some {
                pipeline.xadd(stream.key(), "*", fields).ignore();
            }
            pipeline.query_async::<()>(&mut connection).await.unwrap();
        }
    }

    /// The entries of a stream: fields as `name=value`.
    pub(crate) async fn entries(&self, stream: Stream) -> Vec<String> {
        let last = StreamId {
            ms: u64::MAX,
            seq: u64::MAX,
        };
        let mut connection = self.redis.connect();
        let entries = range(&mut connection, stream, StreamId::START, last, 100_000)
            .await
            .unwrap();
        entries
            .into_iter()
            .map(|entry| entry.fields().map(field).collect::<Vec<_>>().join(" "))
            .collect()
    }

    /// Waits until every entry of `streams` was read and acknowledged.
    pub(crate) async fn drained(&self, streams: &[Stream]) {
        let mut connection = self.redis.connect();
        for stream in streams {
            until(&format!("{stream} is drained"), async || {
                is_drained(&mut connection, *stream).await
            })
            .await;
        }
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

    /// The rows of `query`, which gives texts called `text`.
    pub(crate) async fn texts(&self, query: &str) -> Vec<String> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = Text)]
            text: String,
        }
        let rows: Vec<Row> = sql_query(query)
            .get_results(&mut self.database.connect().await)
            .await
            .unwrap();
        rows.into_iter().map(|row| row.text).collect()
    }

    pub(crate) async fn execute(&self, statements: &str) {
        self.database.connect().await.batch_execute(statements).await.unwrap();
    }
}

fn field((name, value): (&[u8], &[u8])) -> String {
    format!("{}={}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
}

async fn is_drained(connection: &mut Connection, stream: Stream) -> bool {
    let position = position_of(connection, stream, WARM_SYNCER).await.unwrap();
    position.is_some_and(|position| position.pending == 0 && position.lag == Some(0))
}

/// A `warm-syncer run`; killed when it is dropped.
pub(crate) struct Worker {
    child: std::process::Child,
    folder: TempDir,
}

impl Worker {
    pub(crate) fn start(redis_url: &str, database_url: &str, environment: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_warm-syncer"))
            .arg("run")
            .env_remove("RUST_LOG")
            .env("NO_COLOR", "1")
            .env("REDIS_URL", redis_url)
            .env("DATABASE_URL", database_url)
            .env("METRICS_LISTEN", "127.0.0.1:0")
            .env("STORAGE_STREAM__PARTITIONS", PARTITIONS.to_string())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// How it ended, and what it said.
    pub(crate) async fn ended(&mut self) -> (ExitStatus, String) {
        let status = until("the worker ends", async || self.child.try_wait().unwrap()).await;
        (status, self.log())
    }

    /// Sends SIGTERM, and asserts that it ends in good order.
    pub(crate) async fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let (status, log) = self.ended().await;
        assert!(status.success(), "{status}\n{log}");
    }

    /// The body of an HTTP answer.
    pub(crate) async fn get(&self, path: &str) -> String {
        let address = until("the worker serves HTTP", async || {
            let log = self.log();
            let line = log.lines().find(|line| line.contains("serving /metrics"))?;
            Some(line.split_once("address=")?.1.split_whitespace().next()?.to_owned())
        })
        .await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// The value of a metric; `name` with its labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let metrics = self.get("/metrics").await;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{metrics}"))
            .parse()
            .unwrap()
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

/// What polling ends with.
pub(crate) trait Outcome {
    type Value;
    fn value(self) -> Option<Self::Value>;
}

impl Outcome for bool {
    type Value = ();
    fn value(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Outcome for Option<T> {
    type Value = T;
    fn value(self) -> Option<T> {
        self
    }
}

/// Asks until the answer is yes.
pub(crate) async fn until<O: Outcome>(what: &str, mut ask: impl AsyncFnMut() -> O) -> O::Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = ask().await.value() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
