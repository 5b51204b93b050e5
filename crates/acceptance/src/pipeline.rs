//! The world of a scenario: its stores, its workers and their results.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cucumber::World;
use serde_json::Value;
use storage_core::postgres::edition::Edition;
use storage_core::redis::position::positions;
use storage_core::redis::stream::Stream;
use storage_core::testing::certificates::Certificates;
use storage_core::testing::native::NativeServer;
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::process::ServerProcess;
use storage_core::testing::program::{Outcome, Program, Worker};
use storage_core::testing::redis;
use tempfile::TempDir;

use crate::database;
use crate::disk_filler::DiskFiller;
use crate::flavour::Flavour;
use crate::network::Network;
use crate::oracle::{Bar, Bars, Trade};
use crate::producer::{self, Fields, PARTITIONS};
use crate::publisher::Publisher;
use crate::redis_server::{OPERATOR, RedisServer, Written};
use crate::replicated::Replicated;
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

/// Published messages, each with its channel.
pub type Messages = Arc<Mutex<Vec<(String, Value)>>>;

/// Stores, workers and results of one scenario.
#[derive(Debug, World)]
#[world(init = Self::start)]
pub struct Pipeline {
    /// The workers that run or ran. Fields are dropped in order: workers, then stores, then files.
    pub workers: Vec<Worker>,
    edition: Edition,
    /// Redis of the scenario.
    pub redis: RedisServer,
    /// Database of the scenario; `None` before the first step that needs one.
    pub database: Option<TestDatabase>,
    /// Environment variables that override those of the scenario's own stores.
    pub settings: BTreeMap<String, String>,
    /// Files of this scenario.
    pub folder: TempDir,
    /// Outcome of the last command.
    pub outcome: Option<Outcome>,
    /// Outcomes of the last programs that a step ran, by command.
    pub outcomes: BTreeMap<String, Outcome>,
    /// A database server of this scenario alone.
    pub other_server: Option<NativeServer>,
    /// Fills the disk of `other_server`.
    pub disk_filler: Option<DiskFiller>,
    /// The proxies between the workers and their stores, if the network can fail.
    pub network: Option<Network>,
    /// The feed handler that sends in the background.
    pub publisher: Option<Publisher>,
    /// A Prometheus, and its port.
    pub prometheus: Option<(ServerProcess, u16)>,
    /// Replica of the scenario's Redis, and its Sentinel.
    pub replicated: Option<Replicated>,
    /// Certificates of the scenario's Redis.
    pub certificates: Option<Certificates>,
    /// Sizes of the append-only files of Redis at an earlier step.
    pub backup: Option<Written>,
    /// The trades that were sent and must be counted, in order.
    pub trades: Vec<Trade>,
    /// Messages that were published since the scenario subscribed.
    pub messages: Messages,
    /// Values that one step keeps for a later one.
    pub notes: HashMap<String, String>,
    /// The replay that runs in the background.
    pub replay: Option<tokio::task::JoinHandle<std::io::Result<Outcome>>>,
    started: Instant,
    stopped_logs: Vec<String>,
}

impl Pipeline {
    async fn start() -> anyhow::Result<Self> {
        Ok(Self {
            started: Instant::now(),
            folder: TempDir::new()?,
            edition: Edition::Community,
            redis: RedisServer::start().await?,
            database: None,
            settings: BTreeMap::new(),
            workers: Vec::new(),
            outcome: None,
            outcomes: BTreeMap::new(),
            other_server: None,
            disk_filler: None,
            network: None,
            publisher: None,
            prometheus: None,
            replicated: None,
            certificates: None,
            backup: None,
            trades: Vec::new(),
            messages: Messages::default(),
            notes: HashMap::new(),
            replay: None,
            stopped_logs: Vec::new(),
        })
    }

    /// Sets the edition of the database that [`Pipeline::migrate`] creates; the Community edition by default.
    pub fn set_edition(&mut self, edition: Edition) {
        self.edition = edition;
    }

    /// Returns the edition of the scenario's database.
    pub fn edition(&self) -> Edition {
        self.edition
    }

    /// Returns the time since the scenario began.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Makes Redis ready for hot-writer, as `aggregator-admin migrate` does, without a database.
    pub async fn prepare_redis(&self) {
        redis::prepare(&mut self.redis.connect(), PARTITIONS).await;
    }

    /// Prepares both stores with `aggregator-admin migrate`.
    pub async fn migrate(&mut self) {
        if self.database.is_none() {
            self.database = TestDatabase::start(self.edition).await;
        }
        self.command("aggregator-admin", &["migrate"]).await;
        self.succeeded();
    }

    /// Ends the workers and the database on a thread of their own: dropping the database waits for its server, which
    /// may wait for the connection of another scenario on this thread.
    pub async fn close(&mut self) {
        self.publisher = None;
        self.disk_filler = None;
        self.workers.clear();
        let servers = (self.database.take(), self.other_server.take());
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

    /// Returns a program of this scenario, such as `hot-writer 2`, with its own user in Redis.
    pub fn program(&self, instance: &str) -> Program {
        let user = match program_name(instance) {
            "tick-replayer" => "feed-handler",
            name => name,
        };
        self.program_as(user, instance)
    }

    fn program_as(&self, user: &str, instance: &str) -> Program {
        Program::new(program_name(instance)).envs(self.environment(user, instance))
    }

    fn environment(&self, user: &str, instance: &str) -> BTreeMap<String, String> {
        let mut environment: BTreeMap<String, String> = SETTINGS
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let redis = self.redis.config_for(user);
        environment.insert("REDIS_URL".to_owned(), redis.url.expose().to_owned());
        if let Some(file) = redis.password_file {
            environment.insert("REDIS_PASSWORD_FILE".to_owned(), file.display().to_string());
        }
        if let Some(database) = &self.database {
            let login = database.login(program_name(instance));
            environment.insert("DATABASE_URL".to_owned(), login.url.expose().to_owned());
            if let Some(file) = login.password_file {
                environment.insert("DATABASE_PASSWORD_FILE".to_owned(), file.display().to_string());
            }
        }
        let tools = tool("pg_dump");
        if let Some(folder) = tools.parent().filter(|_| tools.exists()) {
            environment.insert("STORAGE_BACKUP__PG_BIN".to_owned(), folder.display().to_string());
        }
        if let Some(folder) = Flavour::chosen().programs() {
            environment.insert("STORAGE_BACKUP__REDIS_BIN".to_owned(), folder.display().to_string());
        }
        environment.insert("STORAGE_SERVICE__INSTANCE".to_owned(), instance.replace(' ', "-"));
        environment.extend(self.settings.clone());
        if let Some(network) = self.network.as_ref().filter(|_| instance != "tick-replayer") {
            network.route(instance, &mut environment);
        }
        environment
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
    pub async fn command(&mut self, name: &str, arguments: &[&str]) {
        let program = match arguments.first() {
            Some(&"restore") => self.program_as(OPERATOR, name),
            _ => self.program(name),
        };
        self.outcome = Some(program.run(arguments).await);
    }

    /// Returns the outcome of the last command.
    pub fn outcome(&self) -> &Outcome {
        self.outcome.as_ref().expect("a command that ran")
    }

    /// Panics unless the last command exited 0.
    pub fn succeeded(&self) {
        assert_eq!(self.outcome().code, Some(0), "{:?}", self.outcome());
    }

    /// Starts a worker without waiting for it.
    pub fn launch(&mut self, name: &str) {
        self.forget(name);
        let worker = self.program(name).start_in(self.folder.path(), name);
        self.workers.push(worker);
    }

    /// Starts a worker and waits until it is ready.
    pub async fn start_worker(&mut self, name: &str) {
        self.launch(name);
        self.worker(name).ready().await;
    }

    /// Returns the worker `name` of this scenario.
    pub fn worker(&self, name: &str) -> &Worker {
        let worker = self.workers.iter().find(|worker| worker.name() == name);
        worker.unwrap_or_else(|| panic!("no {name} was started"))
    }

    fn forget(&mut self, name: &str) {
        if let Some(at) = self.workers.iter().position(|worker| worker.name() == name) {
            let worker = self.workers.remove(at);
            self.stopped_logs
                .push(format!("--- {} (before)\n{}", worker.name(), tail(&worker.log())));
        }
    }

    /// Sends a trade that must be counted.
    pub async fn send(&mut self, trade: Trade) {
        self.send_fields(&trade.symbol, &producer::fields(&trade)).await;
        self.trades.push(trade);
    }

    /// Sends an entry to the tick stream of `symbol`; returns stream and ID.
    pub async fn send_fields(&self, symbol: &str, fields: &Fields) -> (String, String) {
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
            let price = |column: usize| row[column].parse().expect("a price");
            let bar = Bar {
                open: price(2),
                high: price(3),
                low: price(4),
                close: price(5),
                lots: row[6].parse().expect("lots"),
                trades: row[7].parse().expect("a count"),
            };
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

    /// Creates a file with this content.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).expect("to write a file");
        path
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
