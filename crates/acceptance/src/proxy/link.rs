//! One connection through the proxy: a task in each direction.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Notify, oneshot};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::Shared;
use super::breakpoint::{self, Delivered, Hit, SuspendedConnection};

const BUFFER_BYTES: usize = 64 * 1024;
/// Number of sent bytes that are remembered, for a pattern that arrives in two chunks.
const EARLIER_BYTES: usize = 1024;
/// A reply is complete if no further data arrives for this time.
const QUIET: Duration = Duration::from_millis(25);

/// State that the two directions of a connection share.
#[derive(Debug, Default)]
pub(super) struct Link {
    ended: CancellationToken,
    lost: AtomicBool,
    /// `true` while the server's replies are held back.
    holds_replies: AtomicBool,
    held_bytes: AtomicUsize,
    released: Notify,
}

impl Link {
    pub(super) fn cut(&self) {
        self.ended.cancel();
    }

    /// Returns `true` if bytes were dropped, so that the protocol can't continue.
    pub(super) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }
}

/// Makes `stream` send RST instead of FIN when it is closed.
pub(super) fn reset(stream: &TcpStream) {
    // An error means that the peer has reset the socket already.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Forwards in both directions until either side closes or the link is reset.
pub(super) async fn run(link: Arc<Link>, client: TcpStream, target: SocketAddr, shared: Arc<Shared>) {
    let ended = link.ended.clone();
    if shared.conditions().is_blackhole {
        // The connection is open, but the server does not know of this client.
        link.lost.store(true, Ordering::SeqCst);
        ended.cancelled().await;
        reset(&client);
        return;
    }
    let Ok(server) = TcpStream::connect(target).await else {
        reset(&client);
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut up = Forwarder::new(&link, &shared, to_server);
    let mut down = Forwarder::new(&link, &shared, to_client);
    let sound = tokio::select! {
        () = ended.cancelled() => false,
        result = async { tokio::try_join!(up.requests(from_client), down.answers(from_server)) } => result.is_ok(),
    };
    if !sound {
        for to in [up.to, down.to] {
            reset(to.as_ref());
            to.forget(); // a dropped half would send FIN first
        }
    }
}

/// Forwarder of one direction of a connection.
struct Forwarder<'a> {
    link: &'a Link,
    shared: &'a Shared,
    to: OwnedWriteHalf,
}

impl<'a> Forwarder<'a> {
    fn new(link: &'a Link, shared: &'a Shared, to: OwnedWriteHalf) -> Self {
        Self { link, shared, to }
    }

    /// Forwards requests until the client closes the connection or reaches a breakpoint.
    async fn requests(&mut self, mut from: OwnedReadHalf) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut earlier = Vec::new();
        loop {
            let count = from.read(&mut buffer).await?;
            if count == 0 {
                return self.end().await;
            }
            let read = &buffer[..count];
            let hit = breakpoint::find_hit(&mut self.shared.state().breakpoints, &earlier, read);
            match hit {
                Some(hit) => self.hold(hit, read, &mut from).await?,
                None => self.forward(read).await?,
            }
            earlier.extend_from_slice(read);
            earlier.drain(..earlier.len().saturating_sub(EARLIER_BYTES));
        }
    }

    async fn hold(&mut self, hit: Hit, read: &[u8], from: &mut OwnedReadHalf) -> io::Result<()> {
        let passes = match hit.delivered {
            Delivered::Nothing => hit.start,
            Delivered::Part => hit.end + (read.len() - hit.end) / 2,
            Delivered::All => read.len(),
        };
        let (passed, rest) = read.split_at(passes);
        if hit.delivered == Delivered::All {
            self.link.held_bytes.store(0, Ordering::SeqCst);
            self.link.holds_replies.store(true, Ordering::SeqCst);
        }
        self.forward(passed).await?;
        if hit.delivered == Delivered::All {
            self.answered(from).await?;
        }
        let (resume, resumed) = oneshot::channel();
        // An error means that the breakpoint was dropped: the connection goes on.
        let is_awaited = hit.reached.send(SuspendedConnection::new(resume)).is_ok();
        if is_awaited && resumed.await.is_err() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        self.link.holds_replies.store(false, Ordering::SeqCst);
        self.link.released.notify_one();
        self.forward(rest).await
    }

    /// Forwards the rest of the client's requests until the reply has arrived.
    async fn answered(&mut self, from: &mut OwnedReadHalf) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut kept = 0;
        loop {
            match timeout(QUIET, from.read(&mut buffer)).await {
                Ok(Ok(0)) => return Ok(()),
                Ok(count) => self.forward(&buffer[..count?]).await?,
                Err(_) => {
                    let now = self.link.held_bytes.load(Ordering::SeqCst);
                    if now > 0 && now == kept {
                        return Ok(());
                    }
                    kept = now;
                }
            }
        }
    }

    /// Forwards replies, or holds them back while a breakpoint demands it.
    async fn answers(&mut self, mut from: OwnedReadHalf) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut kept = Vec::new();
        loop {
            let count = tokio::select! {
                count = from.read(&mut buffer) => count?,
                () = self.link.released.notified() => {
                    self.forward(&std::mem::take(&mut kept)).await?;
                    continue;
                }
            };
            if count == 0 {
                self.forward(&kept).await?;
                return self.end().await;
            }
            if self.link.holds_replies.load(Ordering::SeqCst) {
                kept.extend_from_slice(&buffer[..count]);
                self.link.held_bytes.fetch_add(count, Ordering::SeqCst);
            } else {
                self.forward(&std::mem::take(&mut kept)).await?;
                self.forward(&buffer[..count]).await?;
            }
        }
    }

    /// Closes the other side too, unless data is dropped.
    async fn end(&mut self) -> io::Result<()> {
        if self.shared.conditions().is_blackhole {
            self.link.lost.store(true, Ordering::SeqCst);
            self.link.ended.cancelled().await;
        }
        self.to.shutdown().await
    }

    async fn forward(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut left = bytes;
        while !left.is_empty() {
            let conditions = self.shared.conditions();
            if conditions.is_blackhole {
                self.link.lost.store(true, Ordering::SeqCst);
                return Ok(());
            }
            if !conditions.delay.is_zero() {
                sleep(conditions.delay).await;
            }
            let piece = left.len().min(conditions.chunk_bytes.unwrap_or(usize::MAX));
            self.to.write_all(&left[..piece]).await?;
            left = &left[piece..];
            if conditions.chunk_bytes.is_some() {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }
}
