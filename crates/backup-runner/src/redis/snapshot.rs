//! Fetches RDBs over the network as a replica does; those of a cluster are of the same time.
//!
//! A candle's hash, the stream of its final state and the position of the ticks' stream may be on different masters.
//! Snapshots of different times could contain a position without its effects, and the ticks in between would be in no
//! candle. So CLIENT PAUSE blocks writes on all masters until each has forked for its RDB, which takes milliseconds.
//! Reads continue.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use futures::future::{join_all, try_join_all};
use redis::ConnectionAddr;
use storage_core::config::redis::RedisConfig;
use storage_core::redis::connection::{self, Connection};
use storage_core::redis::{inspect, transfer};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr};
use tokio::time::{Instant, sleep, timeout_at};

use crate::tool::{Tool, succeeded};

/// Timeout of CLIENT PAUSE: the masters resume writes after it even if this process is killed.
const MAX_PAUSE: Duration = Duration::from_secs(3);
/// Time to wait for a snapshot or AOF rewrite that is already running: a server runs one at a time.
const BUSY_TIMEOUT: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(200);

/// Fetches the RDB of each server into its file.
pub(super) async fn take(servers: &[(RedisConfig, PathBuf)], programs: Option<&Path>) -> anyhow::Result<()> {
    let start = || try_join_all(servers.iter().map(|(server, rdb)| Fetch::start(server, programs, rdb)));
    let fetches = if let [_] = servers {
        start().await?
    } else {
        let mut writes = Writes::of(servers);
        writes.await_idle_masters().await?;
        let paused = async {
            let until = writes.pause().await?;
            let mut fetches = start().await?;
            timeout_at(until, try_join_all(fetches.iter_mut().map(Fetch::begun)))
                .await
                .with_context(|| {
                    format!(
                        "not all masters began a snapshot within {MAX_PAUSE:?}, while writes were paused; run \
                         `redis-cli CONFIG SET repl-diskless-sync yes` on each, then repeat the backup"
                    )
                })??;
            anyhow::Ok(fetches)
        }
        .await;
        writes.resume().await;
        paused?
    };
    for (mut fetch, (server, _)) in fetches.into_iter().zip(servers) {
        fetch.finished().await.with_context(|| fetching(server))?;
    }
    Ok(())
}

/// Writes to the masters of a cluster.
struct Writes<'a> {
    masters: Vec<(&'a RedisConfig, Connection)>,
}

impl<'a> Writes<'a> {
    fn of(servers: &'a [(RedisConfig, PathBuf)]) -> Self {
        let masters = servers.iter().map(|(server, _)| (server, Connection::ordinary(server)));
        Self {
            masters: masters.collect(),
        }
    }

    /// Waits until every master can fork immediately.
    async fn await_idle_masters(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + BUSY_TIMEOUT;
        for (server, conn) in &mut self.masters {
            let delay = inspect::setting(conn, "repl-diskless-sync-delay").await?;
            ensure!(
                delay.is_none_or(|delay| delay == "0"),
                "Redis at {} delays a snapshot, and writes would be paused as long; run `redis-cli CONFIG SET \
                 repl-diskless-sync-delay 0` there, then repeat the backup",
                server.url
            );
            loop {
                let info = inspect::info(conn).await?;
                if !info.flag("rdb_bgsave_in_progress") && !info.flag("aof_rewrite_in_progress") {
                    break;
                }
                ensure!(
                    Instant::now() < deadline,
                    "Redis at {} has been writing a snapshot or rewriting its AOF for {BUSY_TIMEOUT:?}; repeat the \
                     backup later",
                    server.url
                );
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Pauses writes, and returns the time until which they stay paused.
    async fn pause(&mut self) -> anyhow::Result<Instant> {
        let until = Instant::now() + MAX_PAUSE;
        try_join_all(self.masters.iter_mut().map(async |(server, conn)| {
            let paused = transfer::pause_writes(conn, MAX_PAUSE).await;
            paused.map_err(|error| connection::explained(error, server))
        }))
        .await
        .context("pausing writes for a snapshot")?;
        Ok(until)
    }

    /// Resumes writes. A master that can't be reached resumes them after [`MAX_PAUSE`].
    async fn resume(&mut self) {
        join_all(self.masters.iter_mut().map(async |(server, conn)| {
            if let Err(error) = transfer::resume_writes(conn).await {
                tracing::warn!(
                    "resuming writes at {} failed, they resume within {MAX_PAUSE:?}: {error}",
                    server.url
                );
            }
        }))
        .await;
    }
}

/// Running redis-cli that fetches an RDB.
struct Fetch {
    program: Child,
    output: Lines<BufReader<ChildStderr>>,
    printed: Vec<String>,
}

impl Fetch {
    async fn start(server: &RedisConfig, programs: Option<&Path>, rdb: &Path) -> anyhow::Result<Self> {
        let mut program = command(server, programs).await?.arg("--rdb").arg(rdb).start()?;
        let output = program
            .stderr
            .take()
            .context("redis-cli was started without a pipe for its output")?;
        Ok(Self {
            program,
            output: BufReader::new(output).lines(),
            printed: Vec::new(),
        })
    }

    /// Waits until the server sends the snapshot, which contains no later write.
    async fn begun(&mut self) -> anyhow::Result<()> {
        while let Some(line) = self.output.next_line().await? {
            // Redis prints `SYNC sent to master, writing … to …`, Valkey `primary` instead of `master`.
            let begun = line.contains(", writing ");
            self.printed.push(line);
            if begun {
                return Ok(());
            }
        }
        self.finished().await?;
        bail!("redis-cli fetched nothing: {}", self.printed.join("\n"))
    }

    async fn finished(&mut self) -> anyhow::Result<()> {
        while let Some(line) = self.output.next_line().await? {
            self.printed.push(line);
        }
        let status = self.program.wait().await?;
        succeeded("redis-cli", status, &self.printed.join("\n"))
    }
}

fn fetching(server: &RedisConfig) -> String {
    format!("fetching an RDB from Redis at {}", server.url)
}

/// Returns redis-cli with the options that connect it to this server.
async fn command(server: &RedisConfig, programs: Option<&Path>) -> anyhow::Result<Tool> {
    let client = connection::client(server).await?;
    let info = client.get_connection_info();
    let mut tool = Tool::new(programs, "redis-cli");
    match info.addr() {
        ConnectionAddr::Unix(socket) => tool = tool.arg("-s").arg(socket),
        ConnectionAddr::Tcp(host, port) => tool = tool.args(["-h", host, "-p", &port.to_string()]),
        ConnectionAddr::TcpTls { host, port, .. } => {
            tool = tool.args(["-h", host, "-p", &port.to_string(), "--tls", "--sni", host]);
            for (option, file) in [
                ("--cacert", &server.ca_file),
                ("--cert", &server.cert_file),
                ("--key", &server.key_file),
            ] {
                if let Some(file) = file {
                    tool = tool.arg(option).arg(file);
                }
            }
        }
        _ => bail!("redis-cli can't connect to {}", server.url),
    }
    if let Some(user) = info.redis_settings().username() {
        tool = tool.args(["--user", user]);
    }
    if let Some(password) = info.redis_settings().password() {
        tool = tool.env("REDISCLI_AUTH", password);
    }
    Ok(tool)
}
