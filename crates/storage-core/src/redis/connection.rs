//! Connections that open themselves again: ordinary ones, and blocking ones that wait longer for an answer.
//!
//! A [`Connection`] that breaks is replaced at the next command, with the password read again, so that callers only
//! repeat their command (all of the pipeline's writes may be repeated). A blocking read has a connection of its own: on a shared
//! one everybody would wait for it.

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult,
    TlsCertificates, Value,
};

use crate::config::redis::RedisConfig;

/// A connection that is opened at its first command, and again after it broke.
#[derive(Clone)]
pub struct Connection {
    config: Arc<RedisConfig>,
    response_timeout: Duration,
    current: Option<MultiplexedConnection>,
    database: i64,
}

impl Connection {
    /// A connection for commands that Redis answers at once.
    pub fn ordinary(config: &RedisConfig) -> Self {
        Self::waiting(config, config.response_timeout)
    }

    /// A connection for commands that wait up to `block` before they answer.
    pub fn blocking(config: &RedisConfig, block: Duration) -> Self {
        Self::waiting(config, config.response_timeout + block)
    }

    fn waiting(config: &RedisConfig, response_timeout: Duration) -> Self {
        Self {
            config: Arc::new(config.clone()),
            response_timeout,
            current: None,
            database: 0,
        }
    }

    async fn live(&mut self) -> RedisResult<&mut MultiplexedConnection> {
        if self.current.is_none() {
            let client = client(&self.config)?;
            self.database = client.get_connection_info().redis_settings().db();
            let options = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(self.config.connect_timeout))
                .set_response_timeout(Some(self.response_timeout));
            self.current = Some(client.get_multiplexed_async_connection_with_config(&options).await?);
        }
        self.current
            .as_mut()
            .ok_or_else(|| RedisError::from((ErrorKind::Io, "not connected")))
    }

    /// Lets go of the connection when `result` says that it is of no use any more. After a time-out it isn't: the late answer
    /// would be waited for again.
    fn settle<T>(&mut self, result: RedisResult<T>) -> RedisResult<T> {
        if result
            .as_ref()
            .is_err_and(|error| error.is_io_error() || error.is_timeout() || error.is_unrecoverable_error())
        {
            self.current = None;
        }
        result
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let result = async { self.live().await?.req_packed_command(cmd).await }.await;
            self.settle(result)
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let result = async { self.live().await?.req_packed_commands(pipeline, offset, count).await }.await;
            self.settle(result)
        })
    }

    fn get_db(&self) -> i64 {
        self.database
    }
}

/// A client for whoever needs a connection of another kind, such as Pub/Sub. The password is read now.
///
/// # Errors
/// When a password or certificate file can't be read.
pub fn client(config: &RedisConfig) -> RedisResult<Client> {
    let info = config.connection_info().map_err(|error| unusable(error.to_string()))?;
    let read = |path: &Path| std::fs::read(path).map_err(|error| unusable(format!("{}: {error}", path.display())));
    let root_cert = config.ca_file.as_deref().map(read).transpose()?;
    let client_tls = match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => Some(ClientTlsConfig {
            client_cert: read(cert)?,
            client_key: read(key)?,
        }),
        (None, None) => None,
        _ => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "`cert_file` and `key_file` need each other",
            )
            .into());
        }
    };
    if root_cert.is_none() && client_tls.is_none() {
        return Client::open(info);
    }
    Client::build_with_tls(info, TlsCertificates { client_tls, root_cert })
}

/// Not an input or output error, as no waiting mends it.
fn unusable(reason: String) -> RedisError {
    (ErrorKind::InvalidClientConfig, "cannot be used", reason).into()
}

/// Whether the two sides do not agree on TLS: a certificate that is not trusted or for another name, or a server without TLS.
fn is_of_tls(error: &RedisError) -> bool {
    // The driver keeps the cause in an `Arc`, which is what its `source` shows.
    let shared = error
        .source()
        .and_then(|cause| cause.downcast_ref::<Arc<dyn Error + Send + Sync>>());
    let cause = shared.and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|cause| cause.kind() == io::ErrorKind::InvalidData)
}

/// The error with what an operator needs to know: where Redis was looked for, and what to do. Shows no secret.
pub fn explained(error: RedisError, config: &RedisConfig) -> anyhow::Error {
    let remedy = match error.code() {
        Some("WRONGPASS" | "NOAUTH") => "; check user and password in the URL or in `password_file`",
        Some("NOPERM") => "; grant the user what it needs, `redis/users.acl` shows the rights of each worker",
        Some("OOM") => "; raise `maxmemory`, or wait until the streams are drained",
        None if is_of_tls(&error) => "; check `ca_file`, and that its certificate is for this host",
        None if error.is_io_error() || error.is_timeout() => "; is it running, and is this its port?",
        _ => "",
    };
    let target = config.url.masked();
    anyhow::Error::new(error).context(format!("cannot use Redis at {target}{remedy}"))
}

/// Whether an error was caused by Redis in a way that no waiting mends, such as a wrong password; for
/// [`Retry::permanent_if`](crate::retry::Retry::permanent_if) when a worker starts. While it runs it goes on trying: passwords are rotated.
pub fn is_permanent(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<RedisError>())
        .any(|error| !is_transient(error))
}

/// Whether repeating the command later may succeed: the server is away, loading, full, failing over or out of memory.
/// A wrong password or a command that the user may not run is not of this kind.
pub fn is_transient(error: &RedisError) -> bool {
    match error.code() {
        Some(code) => matches!(
            code,
            "LOADING"
                | "BUSY"
                | "OOM"
                | "EXECABORT"
                | "MISCONF"
                | "TRYAGAIN"
                | "CLUSTERDOWN"
                | "MASTERDOWN"
                | "READONLY"
                | "NOREPLICAS"
                | "NOGROUP"
        ),
        None if is_of_tls(error) => false,
        None => {
            error.is_io_error() || error.is_timeout() || error.is_connection_dropped() || error.is_connection_refusal()
        }
    }
}
