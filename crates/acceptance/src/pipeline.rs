//! A scenario's world: its stores, its workers, and what it has seen.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

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
use crate::faults::Ballast;
use crate::flavour::Flavour;
use crate::network::Network;
use crate::oracle::{Bar, Bars, Trade};
use crate::producer::{self, Fields};
use crate::publisher::Publisher;
use crate::redis_server::{OPERATOR, RedisServer, Written};
use crate::replicated::Replicated;
use crate::requirements::tool;

/// Partitions of the streams, as by default.
pub const PARTITIONS: u16 = 4;

/// Settings that make waiting short, with which every worker starts.
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

/// The edition that the suite runs on now.
pub static EDITION: RwLock<Edition> = RwLock::new(Edition::Community);

/// What was published, by channel.
pub type Messages = Arc<Mutex<Vec<(String, Value)>>>;

/// What one scenario has.
#[derive(Debug, World)]
#[world(init = Self::start)]
pub struct Pipeline {
    /// The workers that run or ran. Fields are dropped in order: workers, then stores, then files.
    pub workers: Vec<Worker>,
    /// The edition that it runs on.
    pub edition: Edition,
    /// Its Redis.
    pub redis: RedisServer,
    /// Its database, once a step asked for one.
    pub database: Option<TestDatabase>,
    /// Other URLs than those of the scenario's own stores, and further settings.
    pub settings: BTreeMap<String, String>,
    /// Files of this scenario.
    pub folder: TempDir,
    /// How the last command ended.
    pub outcome: Option<Outcome>,
    /// How the last programs of several ended, by name.
    pub said: BTreeMap<String, Outcome>,
    /// A database server of this scenario alone.
    pub other_server: Option<NativeServer>,
    /// What fills the disk of that server.
    pub ballast: Option<Ballast>,
    /// The network between the workers and their stores, where it can fail.
    pub network: Option<Network>,
    /// The feed handler that sends beside the steps.
    pub publisher: Option<Publisher>,
    /// A Prometheus, and its port.
    pub prometheus: Option<(ServerProcess, u16)>,
    /// The replica of its Redis.
    pub replicated: Option<Replicated>,
    /// The certificates of its Redis.
    pub certificates: Option<Certificates>,
    /// Files of its Redis as they were when a step copied them.
    pub backup: Option<Written>,
    /// The trades that were sent and must be counted, in order.
    pub trades: Vec<Trade>,
    /// What was published since the scenario subscribed.
    pub messages: Messages,
    /// What a step keeps for a later one.
    pub notes: HashMap<String, String>,
    /// The replay that runs beside the steps.
    pub replay: Option<tokio::task::JoinHandle<std::io::Result<Outcome>>>,
    stopped_logs: Vec<String>,
}

impl Pipeline {
    async fn start() -> anyhow::Result<Self> {
        let edition = *EDITION.read().unwrap_or_else(PoisonError::into_inner);
        Ok(Self {
            folder: TempDir::new()?,
            edition,
            redis: RedisServer::start().await?,
            database: None,
            settings: BTreeMap::new(),
            workers: Vec::new(),
            outcome: None,
            said: BTreeMap::new(),
            other_server: None,
            ballast: None,
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

    /// Makes Redis ready for hot-writer, as `aggregator-admin migrate` does, without a database.
    pub async fn prepare_redis(&self) {
        redis::prepare(&mut self.redis.connect(), PARTITIONS).await;
    }

    /// Makes both stores ready, as an operator does.
    pub async fn migrate(&mut self) {
        if self.database.is_none() {
            self.database = TestDatabase::start(self.edition).await;
        }
        self.command("aggregator-admin", &["migrate"]).await;
        self.succeeded();
    }

    /// Lets go of the workers and the database. Not left to dropping: that waits for the server, and the server may wait for
    /// another scenario's connection, which on the same thread would wait for this.
    pub async fn close(&mut self) {
        self.publisher = None;
        self.ballast = None;
        self.workers.clear();
        let servers = (self.database.take(), self.other_server.take());
        tokio::task::spawn_blocking(move || drop(servers))
            .await
            .expect("to drop the database");
    }

    /// The database's URL.
    ///
    /// # Panics
    /// When no step asked for one.
    pub fn database_url(&self) -> &str {
        self.database.as_ref().expect("a database").url()
    }

    /// Rows of a query as text.
    ///
    /// # Errors
    /// What the server says.
    pub async fn rows(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        database::rows(self.database_url(), sql).await
    }

    /// The only value of a query.
    ///
    /// # Errors
    /// What the server says.
    pub async fn value(&self, sql: &str) -> Result<String, String> {
        let rows = self.rows(sql).await?;
        rows.into_iter()
            .flatten()
            .next()
            .ok_or_else(|| format!("no row from {sql}"))
    }

    /// A program of this scenario, such as `hot-writer 2`, with its own user in Redis.
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

    /// Whether every group of every stream has finished everything.
    ///
    /// # Errors
    /// Says which has not.
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

    /// Runs a command of one of the programs to its end: restores as the operator, all else as the worker's user.
    pub async fn command(&mut self, name: &str, arguments: &[&str]) {
        let program = match arguments.first() {
            Some(&"restore") => self.program_as(OPERATOR, name),
            _ => self.program(name),
        };
        self.outcome = Some(program.run(arguments).await);
    }

    /// The last command.
    ///
    /// # Panics
    /// When there was none.
    pub fn outcome(&self) -> &Outcome {
        self.outcome.as_ref().expect("a command that ran")
    }

    /// Demands that the last command ended well.
    ///
    /// # Panics
    /// When it did not.
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

    /// A worker of this scenario.
    ///
    /// # Panics
    /// When there is none of that name.
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

    /// Sends a tick entry as it is; returns stream and ID.
    pub async fn send_fields(&self, symbol: &str, fields: &Fields) -> (String, String) {
        let stream = format!("stream:ticks:{}", producer::partition(symbol, PARTITIONS));
        let id = producer::add(&self.redis, &stream, fields)
            .await
            .expect("to add a tick");
        (stream, id)
    }

    /// The candles of a timeframe in the history.
    ///
    /// # Errors
    /// What the server says.
    pub async fn history(&self, timeframe: &str) -> Result<Bars, String> {
        let sql = format!(
            "SELECT symbol, (extract(epoch FROM time) * 1000000)::bigint, open, high, low, close, volume, trades FROM candles_{timeframe}"
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

    /// A hash in Redis.
    ///
    /// # Errors
    /// What Redis says.
    pub async fn hash(&self, key: &str) -> Result<BTreeMap<String, String>, String> {
        self.redis
            .ask(&["HGETALL", key])
            .await
            .map_err(|error| error.to_string())
    }

    /// A file with this content.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).expect("to write a file");
        path
    }

    /// What the workers printed, for somebody who looks for the cause of a failure.
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
