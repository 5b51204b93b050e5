//! One connection through the proxy: a pump in each direction.

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
/// How much of what was sent is remembered, for a pattern that comes in two pieces.
const EARLIER_BYTES: usize = 1024;
/// An answer is whole when nothing more came for so long.
const QUIET: Duration = Duration::from_millis(25);

/// What the two pumps of a connection share.
#[derive(Debug, Default)]
pub(super) struct Link {
    ended: CancellationToken,
    lost: AtomicBool,
    /// The server's answers are kept back.
    keeps: AtomicBool,
    kept_bytes: AtomicUsize,
    released: Notify,
}

impl Link {
    pub(super) fn cut(&self) {
        self.ended.cancel();
    }

    /// Whether bytes were swallowed, so that nothing sensible can follow.
    pub(super) fn has_lost(&self) -> bool {
        self.lost.load(Ordering::SeqCst)
    }
}

/// Has `stream` end with RST instead of FIN when it is closed.
pub(super) fn reset(stream: &TcpStream) {
    // A socket that the peer has reset already can't be set any more.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// Forwards in both directions until either side closes or the link is reset.
pub(super) async fn run(link: Arc<Link>, client: TcpStream, target: SocketAddr, shared: Arc<Shared>) {
    let ended = link.ended.clone();
    if shared.conditions().is_blackhole {
        // Nobody answers; not even the server knows of this client.
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
    let mut up = Pump::new(&link, &shared, to_server);
    let mut down = Pump::new(&link, &shared, to_client);
    let sound = tokio::select! {
        () = ended.cancelled() => false,
        result = async { tokio::try_join!(up.requests(from_client), down.answers(from_server)) } => result.is_ok(),
    };
    if !sound {
        for to in [up.to, down.to] {
            reset(to.as_ref());
            to.forget(); // else it would say an orderly good-bye first
        }
    }
}

/// One direction.
struct Pump<'a> {
    link: &'a Link,
    shared: &'a Shared,
    to: OwnedWriteHalf,
}

impl<'a> Pump<'a> {
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
            self.link.kept_bytes.store(0, Ordering::SeqCst);
            self.link.keeps.store(true, Ordering::SeqCst);
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
        self.link.keeps.store(false, Ordering::SeqCst);
        self.link.released.notify_one();
        self.forward(rest).await
    }

    /// Forwards what else the client sends before it waits for the answer, until that has come.
    async fn answered(&mut self, from: &mut OwnedReadHalf) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut kept = 0;
        loop {
            match timeout(QUIET, from.read(&mut buffer)).await {
                Ok(Ok(0)) => return Ok(()),
                Ok(count) => self.forward(&buffer[..count?]).await?,
                Err(_) => {
                    let now = self.link.kept_bytes.load(Ordering::SeqCst);
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
            if self.link.keeps.load(Ordering::SeqCst) {
                kept.extend_from_slice(&buffer[..count]);
                self.link.kept_bytes.fetch_add(count, Ordering::SeqCst);
            } else {
                self.forward(&std::mem::take(&mut kept)).await?;
                self.forward(&buffer[..count]).await?;
            }
        }
    }

    /// Passes on that a side has ended, unless that is swallowed too.
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
