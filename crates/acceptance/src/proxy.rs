//! A network that fails on demand: a TCP proxy of this process in front of a server, because nothing that is kept up does
//! this inside a test's own process.
//!
//! It can cut, fall silent, refuse, be slow and deliver in slices; and it can stop a client at a chosen message
//! ([`Trap`]). All that a worker does to the world is a message to Redis or PostgreSQL, so a kill at a message is a kill
//! between two effects, of the very program that is released.

mod link;
mod trap;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use link::Link;
use trap::Armed;
pub use trap::{Cut, Held, Snare, Trap};

/// A proxy on a port of its own. Dropping it cuts its connections.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    accepting: JoinHandle<()>,
}

/// What the connections of a proxy have in common.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    target: SocketAddr,
    conditions: Conditions,
    traps: Vec<Armed>,
    links: Vec<Weak<Link>>,
}

/// How the network is now.
#[derive(Clone, Copy, Debug, Default)]
struct Conditions {
    refuses: bool,
    is_silent: bool,
    delay: Duration,
    slice_bytes: Option<usize>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target`.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                target,
                conditions: Conditions::default(),
                traps: Vec::new(),
                links: Vec::new(),
            }),
        });
        let accepting = tokio::spawn(accept(TcpListener::from_std(listener)?, shared.clone()));
        Ok(Self {
            shared,
            port,
            accepting,
        })
    }

    /// The port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Leads to another server from now on, as after a managed failover; what is open is cut.
    pub fn retarget(&self, target: SocketAddr) {
        self.shared.state().target = target;
        self.reset();
    }

    /// Resets every open connection (RST).
    pub fn reset(&self) {
        for link in self.shared.links() {
            link.cut();
        }
    }

    /// Drops every new connection; the open ones go on.
    pub fn refuse(&self) {
        self.shared.state().conditions.refuses = true;
    }

    /// Swallows what both sides send and closes nothing, as when a peer is gone without a word, until [`Proxy::heal`].
    pub fn silence(&self) {
        self.shared.state().conditions.is_silent = true;
    }

    /// Waits so long before each piece that it forwards.
    pub fn slow(&self, delay: Duration) {
        self.shared.state().conditions.delay = delay;
    }

    /// Forwards pieces of at most so many bytes.
    pub fn slice(&self, bytes: usize) {
        self.shared.state().conditions.slice_bytes = Some(bytes.max(1));
    }

    /// Is a sound network again. A connection of which something was swallowed is reset, as its peer would do.
    pub fn heal(&self) {
        self.shared.state().conditions = Conditions::default();
        for link in self.shared.links() {
            if link.has_lost() {
                link.cut();
            }
        }
    }

    /// Stops a client when it sends what `trap` looks for, counted from now over all connections.
    pub fn trap(&self, trap: Trap) -> Snare {
        let (caught, snare) = oneshot::channel();
        self.shared.state().traps.push(Armed::new(trap, caught));
        Snare::new(snare)
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.shared.links().len()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.reset();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn conditions(&self) -> Conditions {
        self.state().conditions
    }

    /// The open connections.
    fn links(&self) -> Vec<Arc<Link>> {
        let mut state = self.state();
        state.links.retain(|link| link.strong_count() > 0);
        state.links.iter().filter_map(Weak::upgrade).collect()
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.conditions().refuses {
            link::reset(&client);
            continue;
        }
        let link = Arc::new(Link::default());
        let target = {
            let mut state = shared.state();
            state.links.push(Arc::downgrade(&link));
            state.target
        };
        tokio::spawn(link::run(link, client, target, shared.clone()));
    }
}
