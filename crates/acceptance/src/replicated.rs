//! A Redis with a replica, watched by a Sentinel.

use std::fs;
use std::time::Duration;

use anyhow::Context;
use redis::Cmd;
use storage_core::redis::connection::Connection;
use storage_core::testing::polling::PATIENCE;
use storage_core::testing::process::{ServerProcess, free_port};
use tempfile::TempDir;

use crate::flavour::Flavour;
use crate::redis_server::{OPERATOR, RedisServer, config};
use storage_core::testing::polling::until;

/// Name of the master.
const NAME: &str = "market";

/// The replica, and the Sentinel that knows which of the two is the master.
#[derive(Debug)]
pub struct Replicated {
    replica: RedisServer,
    sentinel_port: u16,
    _sentinel: ServerProcess,
    /// Ports of both servers, the current master's first.
    ports: [u16; 2],
    first_port: u16,
}

impl Replicated {
    /// Starts a replica of `first` and a Sentinel, and makes clients of `first` connect through the Sentinel.
    pub async fn start(first: &mut RedisServer) -> anyhow::Result<Self> {
        let replica = RedisServer::start().await?;
        let (first_port, replica_port) = (first.port()?, replica.port()?);
        replica
            .ask::<()>(&["REPLICAOF", "127.0.0.1", &first_port.to_string()])
            .await?;
        let sentinel_port = free_port()?;
        let folder = TempDir::new()?;
        let file = folder.path().join("sentinel.conf");
        let settings = format!(
            "bind 127.0.0.1\nport {sentinel_port}\ndir {}\nsentinel monitor {NAME} 127.0.0.1 {first_port} 1\n\
             sentinel auth-user {NAME} {OPERATOR}\nsentinel auth-pass {NAME} {OPERATOR}\n\
             sentinel down-after-milliseconds {NAME} 1000\nsentinel failover-timeout {NAME} 10000\n",
            folder.path().display()
        );
        fs::write(&file, settings)?;
        let file = file.to_str().context("a file name")?.to_owned();
        let program = Flavour::chosen().server();
        let program = program.to_str().context("a file name")?;
        let sentinel = ServerProcess::start(&[program, &file, "--sentinel"], "KILL", folder)?;
        first.config = config(&format!(
            "redis+sentinel://{OPERATOR}:{OPERATOR}@127.0.0.1:{sentinel_port}/{NAME}"
        ))?;
        let replicated = Self {
            replica,
            sentinel_port,
            _sentinel: sentinel,
            ports: [first_port, replica_port],
            first_port,
        };
        until("the Sentinel knows the replica", async || {
            replicated.is_in_order().await
        })
        .await;
        Ok(replicated)
    }

    /// Promotes the replica; the old master becomes its replica.
    pub async fn fail_over(&mut self) -> anyhow::Result<()> {
        self.sentinel(&["FAILOVER", NAME]).await?;
        self.taken_over().await;
        Ok(())
    }

    /// Kills the master, which is `first` or the replica, and waits until the other server is the master.
    pub async fn kill_master(&mut self, first: &mut RedisServer) -> anyhow::Result<()> {
        if self.ports[0] == self.first_port {
            first.stop();
        } else {
            self.replica.stop();
        }
        self.taken_over().await;
        Ok(())
    }

    async fn taken_over(&mut self) {
        let expected = self.ports[1].to_string();
        until("the replica takes over", async || {
            let address = self.sentinel(&["GET-MASTER-ADDR-BY-NAME", NAME]).await;
            let role: Result<redis::Value, _> = server(self.ports[1], &["ROLE"]).await;
            match (address, role) {
                (Ok(redis::Value::Array(parts)), Ok(redis::Value::Array(role)))
                    if parts.get(1) == Some(&redis::Value::BulkString(expected.clone().into_bytes()))
                        && role.first() == Some(&redis::Value::BulkString(b"master".to_vec())) =>
                {
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        self.ports.reverse();
    }

    /// Returns an error unless the replica follows the master and the Sentinel knows the replica.
    pub async fn is_in_order(&self) -> Result<(), String> {
        let replicas = self
            .sentinel(&["REPLICAS", NAME])
            .await
            .map_err(|error| error.to_string())?;
        let info: String = server(self.ports[1], &["INFO", "replication"])
            .await
            .map_err(|error| error.to_string())?;
        if matches!(&replicas, redis::Value::Array(found) if !found.is_empty())
            && info.contains("master_link_status:up")
        {
            Ok(())
        } else {
            Err(format!("{replicas:?} {info}"))
        }
    }

    async fn sentinel(&self, words: &[&str]) -> redis::RedisResult<redis::Value> {
        let url = format!("redis://127.0.0.1:{}", self.sentinel_port);
        at(&url, &[&["SENTINEL"], words].concat()).await
    }
}

/// Returns the answer of the server on `port` to the operator.
async fn server<T: redis::FromRedisValue>(port: u16, words: &[&str]) -> redis::RedisResult<T> {
    at(&format!("redis://{OPERATOR}:{OPERATOR}@127.0.0.1:{port}"), words).await
}

async fn at<T: redis::FromRedisValue>(url: &str, words: &[&str]) -> redis::RedisResult<T> {
    let mut config = config(url).expect("the URL of a local server");
    config.connect_timeout = PATIENCE.min(Duration::from_secs(2));
    let mut command = Cmd::new();
    words.iter().for_each(|word| {
        command.arg(word);
    });
    command.query_async(&mut Connection::ordinary(&config)).await
}
