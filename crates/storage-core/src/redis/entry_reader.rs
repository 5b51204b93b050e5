//! A connection that only reads entries. Most bytes of a worker arrive over it, so the reply is parsed in place; an
//! ordinary [`Connection`](super::connection::Connection) allocates a value for each string.

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
use super::entry_parser::EntryParser;
use super::stream::Stream;
use crate::config::redis::RedisConfig;
use crate::config::redis_servers::RedisServers;
use crate::domain::entry::Entry;
use crate::domain::time::duration_ms;
use crate::tls;

/// Number of redirections by nodes of a cluster before a read fails.
const MAX_REDIRECTIONS: usize = 5;
/// Number of entries of the first read. Nothing is known about their size, and a reply must fit in memory and arrive
/// within the response time-out.
const FIRST_COUNT: usize = 64;
/// Size of a reply up to which the next one may have more entries.
const REPLY_BYTES: usize = 16 << 20;
/// Free space of the buffer before each read from the socket.
const READ_BYTES: usize = 256 * 1024;

/// Reads one stream with XREAD or XREADGROUP. The connection is opened at the first read, and again after it broke.
pub(super) struct EntryReader {
    config: RedisConfig,
    stream: Stream,
    response_timeout: Duration,
    /// Node of a cluster that holds the stream; `None` until another node has named it.
    node: Option<RedisConfig>,
    link: Option<Link>,
    limit: CountLimit,
}

/// Limit of the entries of a read by the size of the previous replies.
#[derive(Debug)]
struct CountLimit(usize);

impl CountLimit {
    /// Adapts the limit to a reply with `entries` of the `asked` entries and `size_bytes`.
    fn adapt(&mut self, asked: usize, entries: usize, size_bytes: usize) {
        if size_bytes > REPLY_BYTES {
            self.0 = (entries * REPLY_BYTES / size_bytes).max(1);
        } else if entries == asked && asked == self.0 {
            self.0 = self.0.saturating_mul(2);
        }
    }

    /// Lowers the limit after a reply has not arrived in time.
    fn lower(&mut self, asked: usize) {
        self.0 = (asked / 4).max(1);
    }
}

impl EntryReader {
    /// Creates a reader of `stream`. `max_block` is the longest `block` of [`read`](Self::read).
    pub(super) fn new(config: &RedisConfig, stream: Stream, max_block: Duration) -> Self {
        Self {
            config: config.clone(),
            stream,
            response_timeout: config.response_timeout + max_block,
            node: None,
            link: None,
            limit: CountLimit(FIRST_COUNT),
        }
    }

    /// Reads the entries after the ID `after`, at most `count` and fewer if they are large, and waits up to `block` for
    /// the first. `command` is XREAD, or XREADGROUP with its group and consumer. Dropping the future closes the
    /// connection.
    pub(super) async fn read(
        &mut self,
        mut command: Cmd,
        after: &str,
        count: usize,
        block: Duration,
    ) -> RedisResult<Vec<Entry>> {
        let count = count.min(self.limit.0);
        command
            .arg("COUNT")
            .arg(count)
            .arg("BLOCK")
            // 0 would mean no time limit.
            .arg(duration_ms(block).max(1))
            .arg("STREAMS")
            .arg(self.stream.key())
            .arg(after);
        let reply = self.execute(&command).await;
        match &reply {
            Ok(entries) => {
                let size_bytes = entries.iter().map(Entry::size_bytes).sum();
                self.limit.adapt(count, entries.len(), size_bytes);
            }
            Err(error) if error.is_timeout() => self.limit.lower(count),
            Err(_) => {}
        }
        reply
    }

    async fn execute(&mut self, command: &Cmd) -> RedisResult<Vec<Entry>> {
        for _ in 0..MAX_REDIRECTIONS {
            let error = match self.try_execute(command).await {
                Ok(entries) => return Ok(entries),
                Err(error) => error,
            };
            let Some(node) = self.redirected(&error) else {
                // If the node failed, the configured nodes are asked for its successor.
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
        Err(unusable("the nodes of the cluster redirect the command to each other"))
    }

    async fn try_execute(&mut self, command: &Cmd) -> RedisResult<Vec<Entry>> {
        let mut link = match self.link.take() {
            Some(link) => link,
            None => self.open(self.node.as_ref().unwrap_or(&self.config)).await?,
        };
        let result = within(self.response_timeout, link.read(command)).await;
        // After any error without a code, the rest of a reply may still arrive, or the connection is closed.
        let is_usable = |error: &RedisError| error.code().is_some() && !is_useless(error);
        if result.as_ref().err().is_none_or(is_usable) {
            self.link = Some(link);
        }
        result
    }

    /// Returns the node to which `error` redirects; `None` for any other error.
    fn redirected(&self, error: &RedisError) -> Option<RedisConfig> {
        let (host, port) = error.redirect_node()?.0.rsplit_once(':')?;
        Some(self.config.for_node(host.trim_matches(['[', ']']), port.parse().ok()?))
    }

    async fn open(&self, config: &RedisConfig) -> RedisResult<Link> {
        let addresses = match servers(config)? {
            RedisServers::Cluster(nodes) => nodes,
            _ => vec![client(config).await?.get_connection_info().clone()],
        };
        let mut last = unusable("the configuration names no node");
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

/// A TCP, TLS or Unix connection.
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
            ConnectionAddr::TcpTls { host, port, .. } => {
                let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                Box::new(tls(config)?.connect(name, tcp(host, *port).await?).await?)
            }
            ConnectionAddr::Unix(path) => Box::new(UnixStream::connect(path).await?),
            _ => return Err(unusable("unknown kind of address")),
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
        let mut parser = EntryParser::default();
        loop {
            self.receive().await?;
            match parser.advance(&self.buffer) {
                Ok(false) => {}
                Ok(true) => return Ok(parser.take(&mut self.buffer)),
                Err(error) => {
                    self.buffer.clear();
                    return Err(error);
                }
            }
        }
    }

    /// Sends a command whose reply is one line.
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

fn tls(config: &RedisConfig) -> io::Result<TlsConnector> {
    let roots = match config.ca_file.as_deref() {
        Some(ca_file) => tls::authorities_of(ca_file)?,
        None => tls::system_authorities()?,
    };
    let identity: Option<(&Path, &Path)> = config.cert_file.as_deref().zip(config.key_file.as_deref());
    Ok(TlsConnector::from(Arc::new(tls::client(Some(roots), identity)?)))
}

async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn unusable(reason: &'static str) -> RedisError {
    (ErrorKind::InvalidClientConfig, reason).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_asks_for_as_many_entries_as_their_size_allows() {
        let mut limit = CountLimit(FIRST_COUNT);
        limit.adapt(FIRST_COUNT, FIRST_COUNT, 100 * FIRST_COUNT);
        assert_eq!(limit.0, 2 * FIRST_COUNT);
        limit.adapt(10, 10, 1_000);
        assert_eq!(limit.0, 2 * FIRST_COUNT, "the caller asked for less");
        limit.adapt(128, 128, 128 << 20);
        assert_eq!(limit.0, 16);
        limit.lower(16);
        limit.lower(2);
        assert_eq!(limit.0, 1);
        limit.adapt(1, 1, 100 << 20);
        assert_eq!(limit.0, 1);
    }
}
