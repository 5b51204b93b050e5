//! A connection that only reads entries, which is where most bytes come through: the reply is taken apart where it stands, without a
//! value of its own for each string as an ordinary [`Connection`](super::connection::Connection) makes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use redis::{Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, cmd, parse_redis_value};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::connection::{client, is_useless, servers};
use super::scan::Scan;
use crate::config::redis::RedisConfig;
use crate::config::redis_servers::RedisServers;
use crate::domain::entry::Entry;
use crate::tls;

/// How often a cluster may send a command elsewhere.
const MAX_REDIRECTIONS: usize = 5;
/// How much room there is at least for what comes in next.
const READ_BYTES: usize = 256 * 1024;

/// A connection for XREAD and XREADGROUP that is opened at its first command, and again after it broke.
pub(super) struct EntryReader {
    config: RedisConfig,
    /// How long Redis may take to answer.
    response_timeout: Duration,
    /// The node of a cluster that has the stream, once another has said so.
    node: Option<RedisConfig>,
    link: Option<Link>,
}

impl EntryReader {
    /// A reader whose commands wait up to `block` for entries.
    pub(super) fn new(config: &RedisConfig, block: Duration) -> Self {
        Self {
            config: config.clone(),
            response_timeout: config.response_timeout + block,
            node: None,
            link: None,
        }
    }

    /// The entries that `command` reads from its one stream. When this is dropped before it has ended, the connection is, too.
    ///
    /// # Errors
    /// When Redis can't be asked or refuses.
    pub(super) async fn read(&mut self, command: &Cmd) -> RedisResult<Vec<Entry>> {
        for _ in 0..MAX_REDIRECTIONS {
            let error = match self.try_read(command).await {
                Ok(entries) => return Ok(entries),
                Err(error) => error,
            };
            let Some(node) = self.redirected(&error) else {
                // If it was this node that failed, the others know which one has taken its place.
                self.node = self.node.take_if(|_| self.link.is_some());
                return Err(error);
            };
            if error.code() == Some("ASK") {
                let mut link = self.open(&node).await?;
                link.expect_ok(&cmd("ASKING")).await?;
                return within(self.response_timeout, link.read(command)).await;
            }
            (self.node, self.link) = (Some(node), None);
        }
        Err(unusable("the cluster sends the command from node to node"))
    }

    async fn try_read(&mut self, command: &Cmd) -> RedisResult<Vec<Entry>> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.open(self.node.as_ref().unwrap_or(&self.config)).await?,
        };
        let result = within(self.response_timeout, link.read(command)).await;
        // Otherwise it is not known what comes next, or nothing does.
        let in_order = |error: &RedisError| error.code().is_some() && !is_useless(error);
        if result.as_ref().err().is_none_or(in_order) {
            self.link = Some(link);
        }
        result
    }

    /// The node that `error` sends to, if it does.
    fn redirected(&self, error: &RedisError) -> Option<RedisConfig> {
        let (host, port) = error.redirect_node()?.0.rsplit_once(':')?;
        Some(self.config.for_node(host.trim_matches(['[', ']']), port.parse().ok()?))
    }

    async fn open(&self, config: &RedisConfig) -> RedisResult<Link> {
        let addresses = match servers(config)? {
            RedisServers::Cluster(nodes) => nodes,
            _ => vec![client(config).await?.get_connection_info().clone()],
        };
        let mut last = unusable("no node is named");
        for address in addresses {
            match within(config.connect_timeout, Link::open(&address, config)).await {
                Ok(link) => return Ok(link),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

async fn within<T>(limit: Duration, work: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    timeout(limit, work).await.map_err(io::Error::from)?
}

/// Any kind of connection.
trait Io: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Io for T {}

/// An open connection.
struct Link {
    io: Box<dyn Io>,
    buffer: BytesMut,
}

impl Link {
    async fn open(info: &ConnectionInfo, config: &RedisConfig) -> RedisResult<Self> {
        let io: Box<dyn Io> = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Box::new(tcp(host, *port).await?),
            ConnectionAddr::TcpTls {
                host, port, insecure, ..
            } => {
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                Box::new(tls(config, *insecure)?.connect(name, tcp(host, *port).await?).await?)
            }
            ConnectionAddr::Unix(path) => Box::new(UnixStream::connect(path).await?),
            _ => return Err(unusable("this kind of address is not known")),
        };
        let mut link = Self {
            io,
            buffer: BytesMut::new(),
        };
        let settings = info.redis_settings();
        if let Some(password) = settings.password() {
            let mut auth = cmd("AUTH");
            if let Some(username) = settings.username() {
                auth.arg(username);
            }
            link.expect_ok(auth.arg(password)).await?;
        }
        if settings.db() != 0 {
            link.expect_ok(cmd("SELECT").arg(settings.db())).await?;
        }
        Ok(link)
    }

    async fn read(&mut self, command: &Cmd) -> RedisResult<Vec<Entry>> {
        self.io.write_all(&command.get_packed_command()).await?;
        let mut scan = Scan::default();
        loop {
            self.receive().await?;
            match scan.advance(&self.buffer) {
                Ok(false) => {}
                Ok(true) => return Ok(scan.take(&mut self.buffer)),
                Err(error) => {
                    self.buffer.clear();
                    return Err(error);
                }
            }
        }
    }

    /// Sends a command that is answered with a line.
    async fn expect_ok(&mut self, command: &Cmd) -> RedisResult<()> {
        self.io.write_all(&command.get_packed_command()).await?;
        while !self.buffer.ends_with(b"\r\n") {
            self.receive().await?;
        }
        let line = self.buffer.split();
        parse_redis_value(&line)?.extract_error()?;
        Ok(())
    }

    async fn receive(&mut self) -> RedisResult<()> {
        self.buffer.reserve(READ_BYTES);
        match self.io.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }
}

fn tls(config: &RedisConfig, insecure: bool) -> io::Result<TlsConnector> {
    let roots = match config.ca_file.as_deref() {
        _ if insecure => None,
        Some(ca_file) => Some(tls::authorities_of(ca_file)?),
        None => Some(tls::system_authorities()?),
    };
    let identity: Option<(&Path, &Path)> = config.cert_file.as_deref().zip(config.key_file.as_deref());
    Ok(TlsConnector::from(Arc::new(tls::client(roots, identity)?)))
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn unusable(reason: &'static str) -> RedisError {
    (ErrorKind::InvalidClientConfig, reason).into()
}
