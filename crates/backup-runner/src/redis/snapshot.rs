//! Fetches RDBs over the network, as replicas would: of a cluster those of one moment.
//!
//! A hash, the stream that its final state goes to and the position of the stream that it was folded from may be with different
//! masters. Copies of different moments could hold a position without its effects, and those ticks would be counted in no
//! candle. So all masters hold writes back (CLIENT PAUSE) until each has forked for its RDB, which takes milliseconds; reads go on.

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

/// For how long writes may be held back. The servers themselves let them go on then, whatever happens here.
const MOST_PAUSE: Duration = Duration::from_secs(3);
/// How long to wait for the end of a snapshot or a rewrite of the AOF that a server is busy with: it makes one at a time.
const BUSY_PATIENCE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_millis(200);

/// Fetches the RDB of each server into the file beside it.
///
/// # Errors
/// When a server gives none, or, of several, they can't be of one moment.
pub(super) async fn take(servers: &[(RedisConfig, PathBuf)], programs: Option<&Path>) -> anyhow::Result<()> {
    let start = || try_join_all(servers.iter().map(|(server, rdb)| Fetch::start(server, programs, rdb)));
    let fetches = if let [_] = servers {
        start().await?
    } else {
        let mut writes = Writes::of(servers);
        writes.can_be_held().await?;
        let held = async {
            let until = writes.hold().await?;
            let mut fetches = start().await?;
            timeout_at(until, try_join_all(fetches.iter_mut().map(Fetch::begun)))
                .await
                .with_context(|| {
                    format!(
                        "the masters did not all begin a snapshot within {MOST_PAUSE:?}, for which writes were held back; \
                         is `repl-diskless-sync` on?"
                    )
                })??;
            anyhow::Ok(fetches)
        }
        .await;
        writes.release().await;
        held?
    };
    for (mut fetch, (server, _)) in fetches.into_iter().zip(servers) {
        fetch.ended().await.with_context(|| fetching(server))?;
    }
    Ok(())
}

/// The writes of the masters of a cluster.
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

    /// Waits until every master would fork at once when asked for a snapshot.
    async fn can_be_held(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + BUSY_PATIENCE;
        for (server, conn) in &mut self.masters {
            let delay = inspect::setting(conn, "repl-diskless-sync-delay").await?;
            ensure!(
                delay.is_none_or(|delay| delay == "0"),
                "the Redis at {} waits before it makes a snapshot, and writes would have to wait as long: \
                 set `repl-diskless-sync-delay 0` there",
                server.url
            );
            loop {
                let info = inspect::info(conn).await?;
                if !info.flag("rdb_bgsave_in_progress") && !info.flag("aof_rewrite_in_progress") {
                    break;
                }
                ensure!(
                    Instant::now() < deadline,
                    "the Redis at {} is busy with a snapshot or a rewrite of its AOF",
                    server.url
                );
                sleep(POLL).await;
            }
        }
        Ok(())
    }

    /// Holds them back, and says until when.
    async fn hold(&mut self) -> anyhow::Result<Instant> {
        let until = Instant::now() + MOST_PAUSE;
        try_join_all(self.masters.iter_mut().map(async |(server, conn)| {
            let asked = transfer::hold_writes(conn, MOST_PAUSE).await;
            asked.map_err(|error| connection::explained(error, server))
        }))
        .await
        .context("holding writes back for a snapshot")?;
        Ok(until)
    }

    /// Lets them go on. A master that can't be asked does so by itself.
    async fn release(&mut self) {
        join_all(self.masters.iter_mut().map(async |(server, conn)| {
            if let Err(error) = transfer::release_writes(conn).await {
                tracing::warn!("letting the writes of {} go on: {error}", server.url);
            }
        }))
        .await;
    }
}

/// A redis-cli that fetches an RDB.
struct Fetch {
    program: Child,
    output: Lines<BufReader<ChildStderr>>,
    said: Vec<String>,
}

impl Fetch {
    async fn start(server: &RedisConfig, programs: Option<&Path>, rdb: &Path) -> anyhow::Result<Self> {
        let mut program = command(server, programs).await?.arg("--rdb").arg(rdb).start()?;
        let output = program.stderr.take().context("the output of redis-cli")?;
        Ok(Self {
            program,
            output: BufReader::new(output).lines(),
            said: Vec::new(),
        })
    }

    /// Until the server sends the snapshot: what it writes from now on is not in there.
    async fn begun(&mut self) -> anyhow::Result<()> {
        while let Some(line) = self.output.next_line().await? {
            // `SYNC sent to master, writing … to …`; Valkey says primary.
            let begun = line.contains(", writing ");
            self.said.push(line);
            if begun {
                return Ok(());
            }
        }
        self.ended().await?;
        bail!("redis-cli fetched nothing: {}", self.said.join("\n"))
    }

    async fn ended(&mut self) -> anyhow::Result<()> {
        while let Some(line) = self.output.next_line().await? {
            self.said.push(line);
        }
        let status = self.program.wait().await?;
        succeeded("redis-cli", status, &self.said.join("\n"))
    }
}

fn fetching(server: &RedisConfig) -> String {
    format!("fetching an RDB from Redis at {}", server.url)
}

/// redis-cli, for this server.
async fn command(server: &RedisConfig, programs: Option<&Path>) -> anyhow::Result<Tool> {
    let client = connection::client(server).await?;
    let info = client.get_connection_info();
    let mut tool = Tool::new(programs, "redis-cli");
    match info.addr() {
        ConnectionAddr::Unix(socket) => tool = tool.arg("-s").arg(socket),
        ConnectionAddr::Tcp(host, port) => tool = tool.args(["-h", host, "-p", &port.to_string()]),
        ConnectionAddr::TcpTls {
            host, port, insecure, ..
        } => {
            tool = tool.args(["-h", host, "-p", &port.to_string(), "--tls", "--sni", host]);
            if *insecure {
                tool = tool.arg("--insecure");
            }
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
        _ => bail!("redis-cli knows no way to {}", server.url),
    }
    if let Some(user) = info.redis_settings().username() {
        tool = tool.args(["--user", user]);
    }
    if let Some(password) = info.redis_settings().password() {
        tool = tool.env("REDISCLI_AUTH", password);
    }
    Ok(tool)
}
