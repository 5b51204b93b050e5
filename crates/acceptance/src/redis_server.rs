//! A Redis for each scenario, with the project's configuration and users, of the kind that `REDIS_FLAVOUR` names; or
//! the server that `REDIS_URL` names, emptied.

mod faults;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use redis::{Cmd, FromRedisValue, RedisResult};
use storage_core::config::redis::RedisConfig;
use storage_core::redis::connection::Connection;
use storage_core::testing::polling::PATIENCE;
use storage_core::testing::process::{ServerProcess, free_port, project};
use tempfile::TempDir;

use crate::flavour::Flavour;
use faults::Clock;
pub use faults::{Written, libfaketime};

/// Slots of a cluster.
const SLOTS: u16 = 16_384;
/// Placeholder of a server's port in the options of [`RedisServer::restart_with`].
pub const PORT: &str = "<port>";

/// The project's file of users.
const USERS: &str = "redis/users.acl";
/// The user of the harness, with all rights. The password of each user is its name.
pub const OPERATOR: &str = "operator";

/// A Redis that only one scenario uses: one server, or the masters of a cluster.
#[derive(Debug)]
pub struct RedisServer {
    /// The operator's configuration.
    pub config: RedisConfig,
    flavour: Flavour,
    options: Vec<String>,
    clock: Option<Clock>,
    // The nodes come before `data`, because fields are dropped in order: a Redis without its folder does not end.
    nodes: Vec<Node>,
    data: TempDir,
    /// The password of each user, in files as `deploy/redis-users.sh` reads them; `None` for a given server.
    secrets: Option<TempDir>,
    /// The file with the users' rights.
    rights: PathBuf,
}

/// One of its servers.
#[derive(Debug)]
struct Node {
    port: u16,
    /// The port for the other nodes of a cluster.
    bus: u16,
    folder: PathBuf,
    process: Option<ServerProcess>,
}

impl RedisServer {
    /// Starts a server, or empties the given one.
    pub async fn start() -> anyhow::Result<Self> {
        if let Some(url) = given() {
            let server = Self {
                config: config(&url)?,
                flavour: Flavour::Redis,
                options: Vec::new(),
                clock: None,
                nodes: Vec::new(),
                data: TempDir::new()?,
                secrets: None,
                rights: project().join(USERS),
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
                Err(_) => attempts += 1, // another process took a port
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
            secrets: Some(secrets()?),
            rights: project().join(USERS),
        };
        let addresses: Vec<String> = server.nodes.iter().map(Node::address).collect();
        let scheme = match flavour {
            Flavour::Cluster => "redis+cluster",
            _ => "redis",
        };
        server.config = config(&format!("{scheme}://{OPERATOR}:{OPERATOR}@{}", addresses.join(",")))?;
        Ok(server)
    }

    /// Restarts Redis with this file of users instead of the project's.
    pub async fn restart_with_users(&mut self, rights: PathBuf) -> anyhow::Result<()> {
        self.end_in_order();
        self.rights = rights;
        self.resume().await
    }

    /// Restarts Redis with further options, as `redis-server --option value` takes them; [`PORT`] is each server's
    /// port.
    pub async fn restart_with(&mut self, options: &[&str], config: RedisConfig) -> anyhow::Result<()> {
        self.stop();
        self.options.extend(options.iter().map(|option| (*option).to_owned()));
        self.config = config;
        self.resume().await
    }

    /// Kills the servers and keeps their data.
    pub fn stop(&mut self) {
        self.end("KILL");
    }

    /// Ends the servers with SIGTERM and keeps their data.
    pub fn end_in_order(&mut self) {
        self.end("TERM");
    }

    fn end(&mut self, signal: &'static str) {
        for process in self.nodes.iter_mut().filter_map(|node| node.process.take()) {
            process.end(signal);
        }
    }

    /// Starts the servers again with the same ports and data.
    pub async fn resume(&mut self) -> anyhow::Result<()> {
        self.port()?;
        let mut environment = self.clock_environment();
        let secrets = self.secrets.as_ref().context("a server of its own")?;
        environment.extend([
            format!("REDIS_SECRETS={}", secrets.path().display()),
            format!("REDIS_RIGHTS={}", self.rights.display()),
            format!("REDIS_SERVER={}", self.flavour.server().display()),
        ]);
        for node in &mut self.nodes {
            node.process = Some(node.spawn(self.flavour, &environment, &self.options)?);
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
            self.form_cluster().await?;
        }
        Ok(())
    }

    /// Forms a cluster of the servers unless they have formed one, and waits until it serves requests.
    async fn form_cluster(&self) -> anyhow::Result<()> {
        let share = SLOTS.div_ceil(self.flavour.masters());
        let (mut epoch, mut from) = (1, 0);
        for (at, node) in self.nodes.iter().enumerate() {
            let redis = self.of_node(node)?;
            // A server does not answer while it loads its data.
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

    /// Returns the data folder; each master of a cluster has a folder in it.
    pub fn folder(&self) -> &Path {
        self.data.path()
    }

    /// Returns the folder of each server.
    pub fn folders(&self) -> Vec<&Path> {
        self.nodes.iter().map(|node| node.folder.as_path()).collect()
    }

    /// Returns the port of the server, or of the first master of a cluster. Fails for a given server.
    pub fn port(&self) -> anyhow::Result<u16> {
        let first = self.nodes.first().context("this Redis is not the scenario's own")?;
        Ok(first.port)
    }

    /// Returns the URL that workers get.
    pub fn url(&self) -> &str {
        self.config.url.expose()
    }

    /// Returns the configuration of a user of `redis/users.acl`; the operator's for a given server.
    pub fn config_for(&self, user: &str) -> RedisConfig {
        let Some(secrets) = &self.secrets else {
            return self.config.clone();
        };
        let url = self
            .url()
            .replacen(&format!("{OPERATOR}:{OPERATOR}@"), &format!("{user}@"), 1);
        RedisConfig {
            url: RedisConfig::at(&url).expect("the URL with another login").url,
            password_file: Some(secrets.path().join(format!("redis-{user}"))),
            ..self.config.clone()
        }
    }

    /// Returns the configuration of a user, or of a client without a login, for the first server of a cluster.
    pub fn node_config_for(&self, user: Option<&str>) -> anyhow::Result<RedisConfig> {
        let login = user.map_or_else(String::new, |user| format!("{user}:{user}@"));
        config(&format!("redis://{login}127.0.0.1:{}", self.port()?))
    }

    /// Returns the operator's configuration for one server.
    fn of_node(&self, node: &Node) -> anyhow::Result<RedisConfig> {
        let (scheme, _) = self.url().split_once("://").context("a URL")?;
        let scheme = scheme.split('+').next().unwrap_or(scheme);
        Ok(RedisConfig {
            url: RedisConfig::at(&format!("{scheme}://{OPERATOR}:{OPERATOR}@{}", node.address()))?.url,
            ..self.config.clone()
        })
    }

    /// Runs a command and returns the reply.
    pub async fn ask<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        query(&self.config, command).await
    }

    /// Returns a connection with all rights.
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
        // The file is a copy, because a server writes its role to it when Sentinel changes the role.
        let conf = self.folder.join("redis.conf");
        std::fs::copy(project().join("redis/redis.conf"), &conf)?;
        let users = format!("REDIS_USERS={}", self.folder.join("users.acl").display());
        let start = project().join("deploy/redis-users.sh");
        let mut command = vec!["env", users.as_str()];
        command.extend(environment.iter().map(String::as_str));
        command.extend([
            start.to_str().context("a file name")?,
            "start",
            conf.to_str().context("a file name")?,
            "--port",
            &port,
            "--dir",
            self.folder.to_str().context("a folder name")?,
            // Login of a replica at its master.
            "--masteruser",
            OPERATOR,
            "--masterauth",
            OPERATOR,
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

/// Creates a file with the password of each user of the project. The password is the user's own name, in tests only.
fn secrets() -> anyhow::Result<TempDir> {
    let folder = TempDir::new()?;
    for line in std::fs::read_to_string(project().join(USERS))?.lines() {
        match line.split(' ').nth(1) {
            Some("default") | None => {}
            Some(user) => std::fs::write(folder.path().join(format!("redis-{user}")), user)?,
        }
    }
    Ok(folder)
}

async fn query<T: FromRedisValue>(config: &RedisConfig, command: &[&str]) -> RedisResult<T> {
    let mut cmd = Cmd::new();
    command.iter().for_each(|part| {
        cmd.arg(part);
    });
    cmd.query_async(&mut Connection::ordinary(config)).await
}

/// Returns the URL of the server that the environment names.
pub fn given() -> Option<String> {
    std::env::var("REDIS_URL").ok().filter(|url| !url.is_empty())
}

/// Returns the configuration for `url`, with a timeout for a machine that is busy with other tests.
pub fn config(url: &str) -> anyhow::Result<RedisConfig> {
    let password_file = std::env::var_os("REDIS_PASSWORD_FILE")
        .map(PathBuf::from)
        .filter(|_| given().is_some());
    Ok(RedisConfig {
        connect_timeout: Duration::from_secs(30),
        response_timeout: Duration::from_secs(30),
        password_file,
        ..RedisConfig::at(url)?
    })
}
