//! Connections to one server, to a cluster, or to the master that Sentinels name.
//!
//! A [`Connection`] that breaks is replaced at the next command (but see [`Connection::open_once`]): the password is
//! read and the master looked up again. A caller only repeats its command, because all writes of the pipeline may be
//! repeated. Reads that wait for entries have connections of their own,
//! [`StreamReader`](super::stream_reader::StreamReader) and [`GroupReader`](super::group_reader::GroupReader), because
//! a blocking command delays every other command of its connection.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;

use futures::future::try_join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, Route, RoutingInfo, SingleNodeRoutingInfo, Slot, SlotAddr};
use redis::{
    Arg, AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    FromRedisValue, Pipeline, RedisError, RedisFuture, RedisResult, TlsCertificates, Value, cmd,
};

use crate::config::redis::RedisConfig;
use crate::config::redis_servers::RedisServers;

/// Attempts of the driver to send a command to a cluster again, such as while slots move. Callers retry, too.
const CLUSTER_RETRIES: u32 = 3;

/// A connection that opens at its first command and, unless it was opened by [`Connection::open_once`], reopens after
/// it broke.
#[derive(Clone)]
pub struct Connection {
    config: Arc<RedisConfig>,
    current: Option<OpenConnection>,
    opens_again: bool,
    database: i64,
}

#[derive(Clone)]
enum OpenConnection {
    Server(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Creates a connection for commands that do not block.
    pub fn ordinary(config: &RedisConfig) -> Self {
        Self {
            config: Arc::new(config.clone()),
            current: None,
            opens_again: true,
            database: 0,
        }
    }

    /// Opens a connection that stays closed once it broke. The results of entries that were read from one server then
    /// never reach a server that lacks these entries, such as one that lost its last second or a promoted replica. (The
    /// driver reopens a connection to a cluster anyway.)
    pub async fn open_once(config: &RedisConfig) -> RedisResult<Self> {
        let mut once = Self::ordinary(config);
        once.live().await?;
        once.opens_again = false;
        Ok(once)
    }

    /// Returns `true` if the server is a cluster.
    pub(super) async fn is_cluster(&mut self) -> RedisResult<bool> {
        Ok(matches!(self.live().await?, OpenConnection::Cluster(_)))
    }

    async fn live(&mut self) -> RedisResult<&mut OpenConnection> {
        if self.current.is_none() && self.opens_again {
            self.current = Some(self.open().await?);
        }
        self.current
            .as_mut()
            .ok_or_else(|| RedisError::from((ErrorKind::Io, "the connection is lost")))
    }

    async fn open(&mut self) -> RedisResult<OpenConnection> {
        if let RedisServers::Cluster(nodes) = servers(&self.config)? {
            let mut builder = ClusterClient::builder(nodes)
                .connection_timeout(self.config.connect_timeout)
                .response_timeout(self.config.response_timeout)
                .retries(CLUSTER_RETRIES);
            if let Some(certificates) = certificates(&self.config)? {
                builder = builder.certs(certificates);
            }
            return match builder.build()?.get_async_connection().await {
                Ok(cluster) => Ok(OpenConnection::Cluster(cluster)),
                // The error of the cluster driver has no reason. A connection to one node reports it: a wrong password,
                // or no server.
                Err(error) => Err(self.open_server().await.err().unwrap_or(error)),
            };
        }
        self.open_server().await.map(OpenConnection::Server)
    }

    async fn open_server(&mut self) -> RedisResult<MultiplexedConnection> {
        let client = client(&self.config).await?;
        self.database = client.get_connection_info().redis_settings().db();
        let options = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.config.connect_timeout))
            .set_response_timeout(Some(self.config.response_timeout));
        client.get_multiplexed_async_connection_with_config(&options).await
    }

    /// Sends the command to every master of a cluster, or to the one server, and returns all answers.
    pub async fn of_every_master<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<Vec<T>> {
        let result = async {
            let cluster = match self.live().await? {
                OpenConnection::Server(server) => return Ok(vec![command.query_async(server).await?]),
                OpenConnection::Cluster(cluster) => cluster,
            };
            let everywhere = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
            let Value::Map(answers) = cluster.route_command(command.clone(), everywhere).await? else {
                return Err((ErrorKind::UnexpectedReturnType, "no answers by node").into());
            };
            let read = |(_, answer): (Value, Value)| Ok(redis::from_redis_value(answer.extract_error()?)?);
            answers.into_iter().map(read).collect()
        }
        .await;
        self.settle(result, |_| false)
    }

    /// Drops the connection if `result` shows that it is unusable: it broke, or `is_demoted` finds in the answer that
    /// the server is no longer a master. A time-out counts, too: the connection would wait for the late answer again.
    fn settle<T>(&mut self, result: RedisResult<T>, is_demoted: impl Fn(&T) -> bool) -> RedisResult<T> {
        let useless = match &result {
            Ok(answer) => is_demoted(answer),
            Err(error) => is_useless(error),
        };
        if useless {
            self.current = None;
        }
        result
    }
}

/// Returns `true` if the connection is unusable after `error`.
pub(super) fn is_useless(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_unrecoverable_error()
        || error.code().is_some_and(says_demoted)
}

/// Returns `true` if the error code comes from a former master that is a replica now.
fn says_demoted(code: &str) -> bool {
    matches!(code, "READONLY" | "MASTERDOWN")
}

/// Returns `true` if a server refused a transaction. The driver ignores the redirections in it, so it would not learn
/// that a slot has another master.
fn is_aborted(result: &RedisResult<Vec<Value>>) -> bool {
    const ABORTED: &str = "EXECABORT";
    match result {
        Ok(answers) => answers
            .iter()
            .any(|answer| matches!(answer, Value::ServerError(error) if error.code() == ABORTED)),
        Err(error) => error.code() == Some(ABORTED),
    }
}

fn is_demoted(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if says_demoted(error.code()))
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let result = async {
                match self.live().await? {
                    OpenConnection::Server(server) => server.req_packed_command(cmd).await,
                    OpenConnection::Cluster(cluster) => cluster.req_packed_command(cmd).await,
                }
            }
            .await;
            self.settle(result, is_demoted)
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let result = async {
                match self.live().await? {
                    OpenConnection::Server(server) => server.req_packed_commands(pipeline, offset, count).await,
                    OpenConnection::Cluster(cluster) if pipeline.is_transaction() => {
                        cluster.req_packed_commands(pipeline, offset, count).await
                    }
                    OpenConnection::Cluster(cluster) => spread(cluster, pipeline).await,
                }
            }
            .await;
            let is_cluster = matches!(self.current, Some(OpenConnection::Cluster(_)));
            if is_cluster && pipeline.is_transaction() && is_aborted(&result) {
                self.current = None;
            }
            let result = self.settle(result, |answers| answers.iter().any(is_demoted))?;
            // The first error is enough, because the others have the same cause. A transaction has an error of its own.
            let refusal = |answer: &Value| match answer {
                Value::ServerError(refusal) => Some(refusal.clone()),
                _ => None,
            };
            match result.iter().find_map(refusal) {
                Some(refusal) if !pipeline.is_transaction() => Err(refusal.into()),
                _ => Ok(result),
            }
        })
    }

    fn get_db(&self) -> i64 {
        self.database
    }
}

/// Runs a pipeline on a cluster: the commands of one slot in order, those of different slots in parallel.
async fn spread(cluster: &ClusterConnection, pipeline: &Pipeline) -> RedisResult<Vec<Value>> {
    let mut parts: HashMap<Slot, (Pipeline, Vec<usize>)> = HashMap::new();
    for (at, command) in pipeline.cmd_iter().enumerate() {
        let (part, places) = parts.entry(Slot::for_key(key_of(command)?)).or_default();
        part.add_command(command.clone());
        places.push(at);
    }
    let answers = try_join_all(parts.iter().map(|(slot, (part, _))| {
        let mut cluster = cluster.clone();
        let route = SingleNodeRoutingInfo::SpecificNode(Route::with_slot(*slot, SlotAddr::Master));
        async move { cluster.route_pipeline(part.clone(), 0, part.len(), route).await }
    }))
    .await?;
    let mut in_order = vec![Value::Nil; pipeline.len()];
    for ((_, places), answers) in parts.values().zip(answers) {
        for (at, answer) in places.iter().zip(answers) {
            in_order[*at] = answer;
        }
    }
    Ok(in_order)
}

/// Returns the key of a command.
fn key_of(command: &Cmd) -> RedisResult<&[u8]> {
    let words = || {
        command.args_iter().map(|word| match word {
            Arg::Simple(word) => word,
            _ => b"",
        })
    };
    let at = match words().next() {
        Some(b"FCALL" | b"FCALL_RO") => 3,
        Some(b"XGROUP" | b"XINFO") => 2,
        _ => 1,
    };
    words()
        .nth(at)
        .ok_or_else(|| unusable("a pipeline on a cluster has a command without a key".to_owned()))
}

pub(super) fn servers(config: &RedisConfig) -> RedisResult<RedisServers> {
    config.servers().map_err(|error| unusable(error.to_string()))
}

/// Creates a client for other kinds of connection, such as Pub/Sub: to the server, to the master that Sentinels name,
/// or to a node of the cluster. Reads the password now.
pub async fn client(config: &RedisConfig) -> RedisResult<Client> {
    let info = match servers(config)? {
        RedisServers::One(info) => info,
        RedisServers::Cluster(nodes) => nodes
            .into_iter()
            .next()
            .ok_or_else(|| unusable("no node is named".to_owned()))?,
        RedisServers::Sentinel {
            sentinels,
            master,
            node,
        } => {
            let (host, port) = master_of(config, sentinels, &master).await?;
            at(node, host, port)
        }
    };
    client_of(config, info)
}

/// Returns a configuration for the server that Sentinels name as the master now, or `config` without Sentinels.
pub async fn current_master(config: &RedisConfig) -> RedisResult<RedisConfig> {
    let RedisServers::Sentinel { sentinels, master, .. } = servers(config)? else {
        return Ok(config.clone());
    };
    let (host, port) = master_of(config, sentinels, &master).await?;
    Ok(config.for_node(&host, port))
}

fn client_of(config: &RedisConfig, info: ConnectionInfo) -> RedisResult<Client> {
    match certificates(config)? {
        None => Client::open(info),
        Some(certificates) => Client::build_with_tls(info, certificates),
    }
}

/// Asks the Sentinels in order for the address of the master.
async fn master_of(config: &RedisConfig, sentinels: Vec<ConnectionInfo>, master: &str) -> RedisResult<(String, u16)> {
    let options = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(config.connect_timeout))
        .set_response_timeout(Some(config.response_timeout));
    let mut last = unusable("no Sentinel is named".to_owned());
    for sentinel in sentinels {
        let found: RedisResult<Option<(String, u16)>> = async {
            let mut sentinel = client_of(config, sentinel)?
                .get_multiplexed_async_connection_with_config(&options)
                .await?;
            let mut ask = cmd("SENTINEL");
            ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
            ask.query_async(&mut sentinel).await
        }
        .await;
        match found {
            Ok(Some(address)) => return Ok(address),
            Ok(None) => last = unusable(format!("the Sentinels know no master `{master}`")),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Returns `info` with another address.
fn at(info: ConnectionInfo, host: String, port: u16) -> ConnectionInfo {
    let address = match info.addr().clone() {
        ConnectionAddr::TcpTls {
            insecure, tls_params, ..
        } => ConnectionAddr::TcpTls {
            host,
            port,
            insecure,
            tls_params,
        },
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.set_addr(address)
}

fn certificates(config: &RedisConfig) -> RedisResult<Option<TlsCertificates>> {
    let read = |path: &Path| std::fs::read(path).map_err(|error| unusable(format!("{}: {error}", path.display())));
    let root_cert = config.ca_file.as_deref().map(read).transpose()?;
    let client_tls = match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: read(cert)?,
            client_key: read(key)?,
        }),
        (None, None) => None,
        _ => {
            return Err(unusable("`cert_file` and `key_file` need each other".to_owned()));
        }
    };
    let any = root_cert.is_some() || client_tls.is_some();
    Ok(any.then_some(TlsCertificates { client_tls, root_cert }))
}

/// Creates an error of the configuration: an I/O error would be retried.
fn unusable(reason: String) -> RedisError {
    (ErrorKind::InvalidClientConfig, "cannot be used", reason).into()
}

/// Returns `true` if the TLS handshake failed: the certificate is not trusted or for another name, or the server has no
/// TLS.
pub(crate) fn is_tls_failure(error: &RedisError) -> bool {
    // The driver wraps the cause in an `Arc`.
    let shared = error
        .source()
        .and_then(|cause| cause.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let cause = shared.and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData)
}

/// Adds the address of Redis and the remedy to the error, without a secret.
pub fn explained(error: RedisError, config: &RedisConfig) -> anyhow::Error {
    let remedy = match error.code() {
        Some("WRONGPASS" | "NOAUTH") => "; check user and password in the URL or in `password_file`",
        Some("NOPERM") => "; grant the user what it needs, `redis/users.acl` shows the rights of each worker",
        Some("OOM") => "; raise `maxmemory`, or wait until the streams are drained",
        None if is_tls_failure(&error) => "; check `ca_file`, and that its certificate is for this host",
        None if error.is_io_error() || error.is_timeout() => "; is it running, and is this its port?",
        _ => "",
    };
    let target = config.url.masked();
    anyhow::Error::new(error).context(format!("cannot use Redis at {target}{remedy}"))
}
