//! The pipeline of a scenario or a soak: its stores and its workers.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use storage_core::postgres::edition::Edition;
use storage_core::redis::position::positions;
use storage_core::redis::stream::Stream;
use storage_core::testing::native::NativeServer;
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::program::{Outcome, Program, Worker};
use storage_core::testing::redis;
use tempfile::TempDir;

use crate::database;
use crate::flavour::Flavour;
use crate::network::{Network, Store};
use crate::oracle::{Bar, Bars};
use crate::producer::{self, Fields, PARTITIONS};
use crate::redis_server::{OPERATOR, RedisServer};
use crate::tools::tool;

/// Settings with short intervals, with which every worker starts.
const SETTINGS: [(&str, &str); 12] = [
    ("RUST_LOG", "info"),
    ("METRICS_LISTEN", "127.0.0.1:0"),
    ("STORAGE_HOT__LEASE_TTL", "1s"),
    ("STORAGE_HOT__TRIM_INTERVAL", "1s"),
    ("STORAGE_HOT__CLAIM_AFTER", "2s"),
    ("STORAGE_WARM__BATCH_WAIT", "50ms"),
    ("STORAGE_WARM__LEASE_TTL", "1s"),
    ("STORAGE_ADMIN__CLAIM_AFTER", "3s"),
    ("STORAGE_ADMIN__ROLLUP_COLLECT", "200ms"),
    ("STORAGE_ADMIN__POLICY_INTERVAL", "10s"),
    ("STORAGE_ADMIN__MEASURE_INTERVAL", "1s"),
    ("STORAGE_REDIS__RESPONSE_TIMEOUT", "10s"),
];

/// Stores and workers, with the environment in which programs start.
#[derive(Debug)]
pub struct Pipeline {
    // Fields are dropped in order: workers, then stores, then files.
    workers: Vec<Worker>,
    stopped_logs: Vec<String>,
    redis: RedisServer,
    edition: Edition,
    database: Option<TestDatabase>,
    /// A database server of this pipeline alone.
    server: Option<NativeServer>,
    network: Option<Network>,
    /// Environment variables that override those of the own stores.
    settings: BTreeMap<String, String>,
    folder: TempDir,
}

impl Pipeline {
    /// Starts a Redis; the database follows with [`Pipeline::migrate`].
    pub async fn start() -> anyhow::Result<Self> {
        Ok(Self {
            workers: Vec::new(),
            stopped_logs: Vec::new(),
            redis: RedisServer::start().await?,
            edition: Edition::Community,
            database: None,
            server: None,
            network: None,
            settings: BTreeMap::new(),
            folder: TempDir::new()?,
        })
    }

    /// Sets the edition of a database that starts later; the Community edition by default.
    pub fn set_edition(&mut self, edition: Edition) {
        self.edition = edition;
    }

    /// Returns the edition of the database.
    pub fn edition(&self) -> Edition {
        self.edition
    }

    /// Sets an environment variable of the programs that start later; an empty value restores its default.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.settings.insert(name.to_owned(), value.into());
        self.settings.retain(|_, value| !value.is_empty());
    }

    /// Returns the Redis server.
    pub fn redis(&self) -> &RedisServer {
        &self.redis
    }

    /// Returns the Redis server, to stop, change and resume it.
    pub fn redis_mut(&mut self) -> &mut RedisServer {
        &mut self.redis
    }

    /// Makes Redis ready for hot-writer, as `aggregator-admin migrate` does, without a database.
    pub async fn prepare_redis(&self) {
        redis::prepare(&mut self.redis.connect(), PARTITIONS).await;
    }

    /// Prepares both stores with `aggregator-admin migrate`, and makes each policy due at every look of
    /// aggregator-admin. The first call starts the database.
    pub async fn migrate(&mut self) {
        if self.database.is_none() {
            self.start_database().await;
        }
        self.succeed("aggregator-admin", &["migrate"]).await;
        if self.edition == Edition::Community {
            let due = "SELECT FROM timescaledb_information.jobs,
                           LATERAL alter_job(job_id, schedule_interval => INTERVAL '1 second')
                       WHERE hypertable_name IS NOT NULL";
            self.rows(due).await.expect("schedules of the policies");
        }
    }

    /// Creates a database with the schema of this version.
    pub async fn start_database(&mut self) {
        self.database = TestDatabase::start(self.edition).await;
    }

    /// Creates a database without schema.
    pub async fn start_empty_database(&mut self) {
        self.database = TestDatabase::start_empty(self.edition).await;
    }

    /// Creates the database on `server`, which can be stopped.
    pub async fn use_server(&mut self, server: NativeServer) -> anyhow::Result<()> {
        self.database = Some(TestDatabase::on(&server).await?);
        self.server = Some(server);
        Ok(())
    }

    /// Connects the programs to `url` of `server` instead of the database.
    pub fn connect_to(&mut self, server: NativeServer, url: String) {
        self.set("DATABASE_URL", url);
        self.server = Some(server);
    }

    /// Returns the server of [`Pipeline::use_server`], to stop and resume it.
    pub fn server_mut(&mut self) -> &mut NativeServer {
        self.server.as_mut().expect("a dedicated database server")
    }

    /// Puts a proxy between each store and each worker that starts later.
    pub fn add_network(&mut self) {
        self.network = Some(Network::default());
    }

    /// Returns the proxies between workers and stores.
    pub fn network(&self) -> &Network {
        self.network.as_ref().expect("a network that can fail")
    }

    /// Ends the workers and the database, the latter on a thread of its own: dropping it waits for its server, which
    /// may wait for the connection of another scenario on this thread.
    pub async fn close(&mut self) {
        self.workers.clear();
        let servers = (self.database.take(), self.server.take());
        tokio::task::spawn_blocking(move || drop(servers))
            .await
            .expect("to drop the database");
    }

    /// Returns the URL of the scenario's database.
    pub fn database_url(&self) -> &str {
        self.database.as_ref().expect("a database").url()
    }

    /// Returns the rows of a query, each value as text.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        database::rows(self.database_url(), sql).await
    }

    /// Returns the only value of a query.
    pub async fn value(&self, sql: &str) -> Result<String, String> {
        let rows = self.rows(sql).await?;
        rows.into_iter()
            .flatten()
            .next()
            .ok_or_else(|| format!("no row from {sql}"))
    }

    /// Returns a program, such as `hot-writer 2`, with its own user in Redis.
    pub fn program(&self, instance: &str) -> Program {
        let user = match program_name(instance) {
            "tick-replayer" => "feed-handler",
            name => name,
        };
        self.program_as(user, instance)
    }

    fn program_as(&self, user: &str, instance: &str) -> Program {
        let name = program_name(instance);
        let network = self.network.as_ref().filter(|_| name != "tick-replayer");
        let routed = |store, url: &str| network.map_or_else(|| url.to_owned(), |it| it.route(instance, store, url));
        let redis = self.redis.config_for(user);
        let redis_url = routed(Store::Redis, redis.url.expose());
        let mut program = Program::new(name)
            .envs(SETTINGS)
            .redis(&redis)
            .env("REDIS_URL", redis_url);
        if let Some(database) = &self.database {
            let login = database.login(name);
            let database_url = routed(Store::Database, login.url.expose());
            program = program.database(&login).env("DATABASE_URL", database_url);
        }
        let tools = tool("pg_dump");
        if let Some(folder) = tools.parent().filter(|_| tools.exists()) {
            program = program.env("STORAGE_BACKUP__PG_BIN", folder.display().to_string());
        }
        if let Some(folder) = Flavour::chosen().programs() {
            program = program.env("STORAGE_BACKUP__REDIS_BIN", folder.display().to_string());
        }
        let instance = instance.replace(' ', "-");
        program
            .env("STORAGE_SERVICE__INSTANCE", instance)
            .envs(self.settings.clone())
    }

    /// Returns an error with the first group that has not finished its stream.
    pub async fn drained(&self) -> Result<(), String> {
        let mut conn = self.redis.connect();
        for stream in Stream::all(PARTITIONS) {
            for position in positions(&mut conn, stream).await.map_err(|error| error.to_string())? {
                if position.lag != Some(0) || position.pending != 0 {
                    return Err(format!("{stream}: {position:?}"));
                }
            }
        }
        Ok(())
    }

    /// Runs a command of a program to its end: `restore` as the operator, any other command as the worker's user.
    pub async fn command(&self, name: &str, arguments: &[&str]) -> Outcome {
        let program = match arguments.first() {
            Some(&"restore") => self.program_as(OPERATOR, name),
            _ => self.program(name),
        };
        program.run(arguments).await
    }

    /// Runs a command; panics unless it exits 0.
    pub async fn succeed(&self, name: &str, arguments: &[&str]) {
        let outcome = self.command(name, arguments).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    }

    /// Starts a worker, in place of an earlier one of this name, without waiting for it.
    pub fn launch(&mut self, name: &str) {
        if self.has_worker(name) {
            let worker = self.take_worker(name);
            let log = format!("--- {name} (before)\n{}", tail(&worker.log()));
            self.stopped_logs.push(log);
        }
        let worker = self.program(name).start_in(self.folder(), name);
        self.add_worker(worker);
    }

    /// Starts a worker and waits until it is ready.
    pub async fn start_worker(&mut self, name: &str) {
        self.launch(name);
        self.worker(name).ready().await;
    }

    /// Returns the workers that run or ran.
    pub fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// Returns `true` if the worker `name` was started and not taken.
    pub fn has_worker(&self, name: &str) -> bool {
        self.workers.iter().any(|worker| worker.name() == name)
    }

    /// Returns the worker `name`.
    pub fn worker(&self, name: &str) -> &Worker {
        &self.workers[self.index_of(name)]
    }

    /// Removes the worker `name`, which may still run.
    pub fn take_worker(&mut self, name: &str) -> Worker {
        self.workers.remove(self.index_of(name))
    }

    fn index_of(&self, name: &str) -> usize {
        let index = self.workers.iter().position(|worker| worker.name() == name);
        index.unwrap_or_else(|| panic!("no {name} was started"))
    }

    /// Adds a worker that was taken, or that a program of this pipeline started.
    pub fn add_worker(&mut self, worker: Worker) {
        self.workers.push(worker);
    }

    /// Sends an entry to the tick stream of `symbol`; returns stream and ID.
    pub async fn send(&self, symbol: &str, fields: &Fields) -> (String, String) {
        let stream = format!("stream:ticks:{}", producer::partition(symbol, PARTITIONS));
        let id = producer::add(&self.redis, &stream, fields)
            .await
            .expect("to add a tick");
        (stream, id)
    }

    /// Returns the candles of a timeframe in the history.
    pub async fn history(&self, timeframe: &str) -> Result<Bars, String> {
        let sql = format!(
            "SELECT symbol, (extract(epoch FROM time) * 1000000)::bigint, open, high, low, close, volume, trades
             FROM candles_{timeframe}"
        );
        let rows = self.rows(&sql).await?;
        let bar = |row: Vec<String>| {
            let bar = Bar::parse(&row[2..], |lots| lots.parse().expect("lots"));
            ((row[0].clone(), row[1].parse().expect("µs")), bar)
        };
        Ok(rows.into_iter().map(bar).collect())
    }

    /// Reads a hash of Redis.
    pub async fn hash(&self, key: &str) -> Result<BTreeMap<String, String>, String> {
        self.redis
            .ask(&["HGETALL", key])
            .await
            .map_err(|error| error.to_string())
    }

    /// Returns the folder of files and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Creates a file with this content.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder().join(name);
        fs::write(&path, content).expect("to write a file");
        path
    }

    /// Keeps the folder after the end and returns its path.
    pub fn keep_folder(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder().to_owned()
    }

    /// Returns the last lines of the logs of all workers.
    pub fn logs(&self) -> String {
        let mut logs = self.stopped_logs.join("\n");
        for worker in &self.workers {
            let _ = writeln!(logs, "--- {}\n{}", worker.name(), tail(&worker.log()));
        }
        logs
    }
}

fn program_name(instance: &str) -> &str {
    instance.split(' ').next().unwrap_or(instance)
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
