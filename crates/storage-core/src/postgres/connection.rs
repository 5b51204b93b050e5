//! Connections to PostgreSQL: the password and the authorities are read for each one. The error names the server, the
//! reason and the remedy, and holds no secret.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{Fault, remedy};
use super::sqlstate::{Annotated, AnnotatedTls};
use super::tls;
use crate::config::postgres::PostgresConfig;

/// A connection that could not be opened. The text names the server and the remedy.
#[derive(Clone, Debug, thiserror::Error)]
#[error("cannot use PostgreSQL at {target}: {reason}")]
pub struct ConnectError {
    target: String,
    reason: String,
    /// Class of the error.
    pub fault: Fault,
}

impl ConnectError {
    pub(super) fn new(config: &PostgresConfig, fault: Fault, reason: impl Into<String>) -> Self {
        Self {
            target: config.url.masked(),
            reason: reason.into(),
            fault,
        }
    }
}

/// Opens a connection with the name `application` in `pg_stat_activity`.
pub async fn connect(config: &PostgresConfig, application: &str) -> Result<AsyncPgConnection, ConnectError> {
    let permanent = |error: io::Error| ConnectError::new(config, Fault::Permanent, error.to_string());
    let options = config.connection_options(application).map_err(permanent)?;
    let tls = tls::connector(config).map_err(permanent)?;
    let opening = async {
        let client = open_any(&options, tls.as_ref()).await?;
        let mut connection = AsyncPgConnection::try_from(client)
            .await
            .map_err(|error| Failed::transient(error.to_string()))?;
        connection
            .batch_execute(&session_settings(config.statement_timeout))
            .await
            .map_err(|error| Failed {
                fault: Fault::of(&error),
                reason: error.to_string(),
            })?;
        Ok(connection)
    };
    match timeout(config.connect_timeout, opening).await {
        Ok(opened) => opened.map_err(|failed: Failed| ConnectError::new(config, failed.fault, failed.reason)),
        Err(_) => {
            let reason = format!(
                "no answer within {:?}; is it running, and is this its port?",
                config.connect_timeout
            );
            Err(ConnectError::new(config, Fault::Transient, reason))
        }
    }
}

/// Returns the statements that prepare a session.
///
/// A commit waits for the disk even if the server, the database or the role has `synchronous_commit = off`: rows whose
/// entries were acknowledged in Redis must survive a crash of PostgreSQL. `local` and stronger values stay.
///
/// Nothing is compiled: the planner overestimates queries over few rows of many chunks, and compiling them takes a
/// second where running them takes milliseconds.
///
/// Notices, such as that a refresh had nothing to do, are not logged. The last setting belongs to TimescaleDB: a
/// correction of old candles may decompress any number of rows. A server without the extension stores it unused.
fn session_settings(statement_timeout: Duration) -> String {
    format!(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'; \
         SET statement_timeout = {}; \
         SET idle_in_transaction_session_timeout = '60s'; \
         SET client_min_messages = 'warning'; \
         SET jit = off; \
         SET timescaledb.max_tuples_decompressed_per_dml_transaction = 0",
        statement_timeout.as_millis()
    )
}

type RustlsConnector = <MakeRustlsConnect as MakeTlsConnect<TcpStream>>::TlsConnect;

struct Failed {
    fault: Fault,
    reason: String,
}

impl Failed {
    fn transient(reason: impl Into<String>) -> Self {
        Self {
            fault: Fault::Transient,
            reason: reason.into(),
        }
    }

    fn of_driver(error: &tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            // The driver's own text names only the step; the cause gives the reason.
            let cause = error.source();
            return Self {
                fault: match cause.and_then(|cause| cause.downcast_ref::<io::Error>()) {
                    // The TLS handshake failed, or the host's name can't be in a certificate.
                    Some(cause) if matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
                        Fault::Permanent
                    }
                    _ => Fault::Transient,
                },
                reason: cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}")),
            };
        };
        let code = db.code().code();
        let reason = match remedy(code) {
            Some(remedy) => format!("{}; {remedy}", db.message()),
            None => db.message().to_owned(),
        };
        Self {
            fault: Fault::of_sqlstate(code),
            reason,
        }
    }
}

/// Connects to the first host that answers.
async fn open_any(options: &Config, tls: Option<&MakeRustlsConnect>) -> Result<Client, Failed> {
    let mut last = Failed::transient("the URL names no host");
    for (at, host) in options.get_hosts().iter().enumerate() {
        let ports = options.get_ports();
        let port = ports.get(at).or(ports.first()).copied().unwrap_or(5432);
        match open(options, host, port, tls).await {
            Ok(client) => return Ok(client),
            Err(failed) => last = failed,
        }
    }
    Err(last)
}

async fn open(options: &Config, host: &Host, port: u16, tls: Option<&MakeRustlsConnect>) -> Result<Client, Failed> {
    let unreachable = |at: String| move |error: io::Error| Failed::transient(format!("{at}: {error}; is it running?"));
    match host {
        Host::Unix(folder) => {
            let path = folder.join(format!(".s.PGSQL.{port}"));
            let stream = UnixStream::connect(&path)
                .await
                .map_err(unreachable(path.display().to_string()))?;
            start_plain(options, stream).await
        }
        Host::Tcp(name) => {
            let dial = async || tcp(name, port).await.map_err(unreachable(format!("{name}:{port}")));
            let Some(tls) = tls else {
                return start_plain(options, dial().await?).await;
            };
            let Ok(connector) = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls.clone(), name);
            match start_tls(options, dial().await?, connector).await {
                // libpq does the same: it retries without TLS if the server has none or the handshake fails.
                Err(error) if options.get_ssl_mode() == SslMode::Prefer && error.code().is_none() => {
                    start_plain(options, dial().await?).await
                }
                started => started.map_err(|error| Failed::of_driver(&error)),
            }
        }
    }
}

async fn tcp(name: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((name, port)).await?;
    stream.set_nodelay(true)?;
    // A server that vanished is noticed within half a minute, not after the defaults of the kernel: two hours, or a
    // quarter of an hour with unconfirmed data.
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

async fn start_plain<S>(options: &Config, stream: S) -> Result<Client, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut options = options.clone();
    options.ssl_mode(SslMode::Disable);
    start(&options, Annotated::new(stream), NoTls)
        .await
        .map_err(|error| Failed::of_driver(&error))
}

async fn start_tls(
    options: &Config,
    stream: TcpStream,
    connector: RustlsConnector,
) -> Result<Client, tokio_postgres::Error> {
    let mut options = options.clone();
    options.ssl_mode(SslMode::Require);
    start(&options, stream, AnnotatedTls(connector)).await
}

async fn start<S, T>(options: &Config, stream: S, tls: T) -> Result<Client, tokio_postgres::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    T: TlsConnect<S, Stream: TlsStream + Unpin + Send + 'static>,
{
    let (client, connection) = options.connect_raw(stream, tls).await?;
    // Ends when the client is dropped or the server closes the connection; the client then reports the error.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a PostgreSQL connection ended");
        }
    });
    Ok(client)
}
