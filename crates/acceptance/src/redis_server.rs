//! A Redis with the project's own configuration for each scenario, of the kind that `REDIS_FLAVOUR` names; or the one that
//! `REDIS_URL` names, emptied.

mod faults;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use redis::{Cmd, FromRedisValue, RedisResult};
use storage_core::config::redis::RedisConfig;
use storage_core::redis::connection::Connection;
use storage_core::testing::process::{PATIENCE, ServerProcess};
use tempfile::TempDir;

use crate::flavour::Flavour;
use crate::process::project;
use faults::Clock;
pub use faults::{Written, libfaketime};

/// Slots of a cluster.
const SLOTS: u16 = 16_384;
/// What stands for a server's own port in the options of [`RedisServer::restart_with`].
pub const PORT: &str = "<port>";

/// A Redis that only one scenario uses: one server, or the masters of a cluster.
#[derive(Debug)]
pub struct RedisServer {
    /// How it is reached with all rights.
    pub config: RedisConfig,
    flavour: Flavour,
    options: Vec<String>,
    clock: Option<Clock>,
    // Before `data`, as fields are dropped in order: a Redis whose folder is gone does not end.
    nodes: Vec<Node>,
    data: TempDir,
}

/// One server of it.
#[derive(Debug)]
struct Node {
    port: u16,
    /// The port for the other nodes of a cluster.
    bus: u16,
    folder: PathBuf,
    process: Option<ServerProcess>,
}

impl RedisServer {
    /// Starts one, or empties the given one.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start() -> anyhow::Result<Self> {
        if let Some(url) = given() {
            let server = Self {
                config: config(&url)?,
                flavour: Flavour::Redis,
                options: Vec::new(),
                clock: None,
                nodes: Vec::new(),
                data: TempDir::new()?,
            };
            server.ask::<()>(&["FLUSHALL"]).await?;
            server.ask::<()>(&["FUNCTION", "FLUSH"]).await?;
            return Ok(server);
        }
        let mut attempts = 0;
        loop {
            let mut server = Self::on_free_ports(Flavour::chosen())?;
            match server.resume().await {
                Ok(()) => return Ok(server),
                Err(error) if attempts == 5 => return Err(error),
                Err(_) => attempts += 1, // somebody else took a port
            }
        }
    }

    fn on_free_ports(flavour: Flavour) -> anyhow::Result<Self> {
        let data = TempDir::new()?;
        let nodes = (0..flavour.masters()).map(|at| {
            let folder = match flavour {
                Flavour::Cluster => data.path().join(at.to_string()),
                _ => data.path().to_owned(),
            };
            std::fs::create_dir_all(&folder)?;
            Ok(Node {
                port: free_port()?,
                bus: free_port()?,
                folder,
                process: None,
            })
        });
        let mut server = Self {
            config: RedisConfig::default(),
            flavour,
            options: Vec::new(),
            clock: None,
            nodes: nodes.collect::<std::io::Result<_>>()?,
            data,
        };
        server.config = config(&server.url_for("")?)?;
        Ok(server)
    }

    /// Starts it again with further options, as `redis-server --option value` takes them; [`PORT`] is each server's port.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart_with(&mut self, options: &[&str], config: RedisConfig) -> anyhow::Result<()> {
        self.stop();
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self.config = config;
        self.resume().await
    }

    /// Ends it; its data stays.
    pub fn stop(&mut self) {
        for node in &mut self.nodes {
            node.process = None;
        }
    }

    /// Starts it on its ports and data.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        self.port()?;
        let clock = self.clock_environment();
        for node in &mut self.nodes {
            node.process = Some(node.spawn(self.flavour, &clock, &self.options)?);
        }
        for node in &self.nodes {
            let folder = node.folder.display().to_string();
            self.until(node, async |redis| {
                let dir: Vec<String> = query(redis, &["CONFIG", "GET", "dir"]).await.ok()?;
                dir.contains(&folder).then_some(())
            })
            .await?;
        }
        if self.flavour == Flavour::Cluster {
            self.unite().await?;
        }
        Ok(())
    }

    /// Makes the servers a cluster, unless they are one already, and waits until it serves.
    async fn unite(&self) -> anyhow::Result<()> {
        let share = SLOTS.div_ceil(self.flavour.masters());
        let (mut epoch, mut from) = (1, 0);
        for (at, node) in self.nodes.iter().enumerate() {
            let redis = self.of_node(node)?;
            // Not while it loads its data.
            let info = async |redis: &RedisConfig| query::<String>(redis, &["CLUSTER", "INFO"]).await.ok();
            let info = self.until(node, info).await?;
            if info.contains("cluster_slots_assigned:0\r") {
                let (first, last) = (from.to_string(), (from + share).min(SLOTS) - 1);
                query::<()>(&redis, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()]).await?;
                query::<()>(&redis, &["CLUSTER", "ADDSLOTSRANGE", &first, &last.to_string()]).await?;
            }
            for Node { port, bus, .. } in &self.nodes[..at] {
                let (port, bus) = (port.to_string(), bus.to_string());
                query::<()>(&redis, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await?;
            }
            (epoch, from) = (epoch + 1, from + share);
        }
        for node in &self.nodes {
            self.until(node, async |redis| {
                let info: String = query(redis, &["CLUSTER", "INFO"]).await.ok()?;
                let all = format!("cluster_size:{}\r", self.flavour.masters());
                (info.contains("cluster_state:ok") && info.contains(&all)).then_some(())
            })
            .await?;
        }
        Ok(())
    }

    async fn until<T>(&self, node: &Node, mut ready: impl AsyncFnMut(&RedisConfig) -> Option<T>) -> anyhow::Result<T> {
        let redis = self.of_node(node)?;
        let process = node.process.as_ref().context("a server that runs")?;
        Ok(process.until(PATIENCE, async || ready(&redis).await).await?)
    }

    /// Where it keeps its data; a cluster's masters each in a folder there.
    pub fn folder(&self) -> &Path {
        self.data.path()
    }

    /// Where each server keeps its files.
    pub fn folders(&self) -> Vec<&Path> {
        self.nodes.iter().map(|node| node.folder.as_path()).collect()
    }

    /// The port of an own server; the first master's of a cluster.
    ///
    /// # Errors
    /// When it is a given one.
    pub fn port(&self) -> anyhow::Result<u16> {
        let first = self.nodes.first().context("this Redis is not the scenario's own")?;
        Ok(first.port)
    }

    /// The URL that workers get.
    pub fn url(&self) -> &str {
        self.config.url.expose()
    }

    /// The URL of an own server for somebody: `USER`, `USER:PASSWORD`, or nobody in particular.
    ///
    /// # Errors
    /// When it is a given one.
    pub fn url_for(&self, login: &str) -> anyhow::Result<String> {
        if self.flavour != Flavour::Cluster {
            return self.node_url_for(login);
        }
        let addresses: Vec<String> = self.nodes.iter().map(Node::address).collect();
        Ok(format!("redis+cluster://{}{}", at(login), addresses.join(",")))
    }

    /// As [`Self::url_for`], but of one server also where it is a cluster.
    ///
    /// # Errors
    /// When it is a given one.
    pub fn node_url_for(&self, login: &str) -> anyhow::Result<String> {
        Ok(format!("redis://{}127.0.0.1:{}", at(login), self.port()?))
    }

    /// How one server is reached, with all rights.
    fn of_node(&self, node: &Node) -> anyhow::Result<RedisConfig> {
        let url = self.url();
        let (scheme, rest) = url.split_once("://").context("a URL")?;
        let login = rest.rsplit_once('@').map_or("", |(login, _)| login);
        let url = format!(
            "{}://{}{}",
            scheme.trim_end_matches("+cluster"),
            at(login),
            node.address()
        );
        Ok(RedisConfig {
            url: RedisConfig::at(&url)?.url,
            ..self.config.clone()
        })
    }

    /// What Redis answers to a command.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn ask<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        query(&self.config, command).await
    }

    /// A connection with all rights.
    pub fn connect(&self) -> Connection {
        Connection::ordinary(&self.config)
    }
}

impl Node {
    fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn spawn(&self, flavour: Flavour, environment: &[String], options: &[String]) -> anyhow::Result<ServerProcess> {
        let (port, bus) = (self.port.to_string(), self.bus.to_string());
        // A copy: Sentinel has a server write down what it has become.
        let (program, conf) = (flavour.server(), self.folder.join("redis.conf"));
        std::fs::copy(project().join("redis/redis.conf"), &conf)?;
        let mut command = vec!["env"];
        command.extend(environment.iter().map(String::as_str));
        command.extend([
            program.to_str().context("a file name")?,
            conf.to_str().context("a file name")?,
            "--port",
            &port,
            "--dir",
            self.folder.to_str().context("a folder name")?,
        ]);
        if flavour == Flavour::Cluster {
            command.extend(["--cluster-enabled", "yes", "--cluster-port", &bus]);
            command.extend(["--cluster-node-timeout", "5000"]);
        }
        command.extend(
            options
                .iter()
                .map(|option| if option == PORT { port.as_str() } else { option }),
        );
        Ok(ServerProcess::start(&command, "KILL", TempDir::new()?)?)
    }
}

/// A login as a URL has it.
fn at(login: &str) -> String {
    if login.is_empty() {
        String::new()
    } else {
        format!("{login}@")
    }
}

async fn query<T: FromRedisValue>(config: &RedisConfig, command: &[&str]) -> RedisResult<T> {
    let mut cmd = Cmd::new();
    command.iter().for_each(|part| {
        cmd.arg(part);
    });
    cmd.query_async(&mut Connection::ordinary(config)).await
}

/// The server that the environment names.
pub fn given() -> Option<String> {
    std::env::var("REDIS_URL").ok().filter(|url| !url.is_empty())
}

/// Patient, for a machine that does much else.
///
/// # Errors
/// When the URL is none.
pub fn config(url: &str) -> anyhow::Result<RedisConfig> {
    let password_file = std::env::var_os("REDIS_PASSWORD_FILE")
        .map(PathBuf::from)
        .filter(|_| given().is_some());
    Ok(RedisConfig {
        response_timeout: Duration::from_secs(30),
        password_file,
        ..RedisConfig::at(url)?
    })
}

/// A port that nobody listens on.
///
/// # Errors
/// When there is none.
pub fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
