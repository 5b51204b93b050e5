//! A network that fails on demand: a TCP proxy in front of a server, in the test's process. No maintained crate offers
//! this.
//!
//! It can reset connections, drop data, refuse, delay and fragment; and it can suspend a client at a chosen message
//! ([`Breakpoint`]). Every effect of a worker is a message to Redis or PostgreSQL, so a kill at a message is
//! a kill between two effects of the released program.

mod breakpoint;
mod link;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use breakpoint::ActiveBreakpoint;
pub use breakpoint::{Breakpoint, Delivered, PendingBreakpoint, SuspendedConnection};
use link::Link;

/// A proxy on its own port. Dropping it resets its connections.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    accepting: JoinHandle<()>,
}

/// State that the connections of a proxy share.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    target: SocketAddr,
    conditions: ActiveFaults,
    breakpoints: Vec<ActiveBreakpoint>,
    links: Vec<Weak<Link>>,
}

/// Active faults of the network.
#[derive(Clone, Copy, Debug, Default)]
struct ActiveFaults {
    refuses: bool,
    is_blackhole: bool,
    delay: Duration,
    chunk_bytes: Option<usize>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target`.
    pub fn start(target: SocketAddr) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                target,
                conditions: ActiveFaults::default(),
                breakpoints: Vec::new(),
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

    /// Returns the port to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connects to another server from now on, as after a managed failover, and resets the open connections.
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

    /// Drops the data of both sides and closes nothing, as when a peer has vanished, until [`Proxy::heal`].
    pub fn blackhole(&self) {
        self.shared.state().conditions.is_blackhole = true;
    }

    /// Delays each chunk that it forwards by `delay`.
    pub fn slow(&self, delay: Duration) {
        self.shared.state().conditions.delay = delay;
    }

    /// Forwards chunks of at most `bytes` bytes.
    pub fn fragment(&self, bytes: usize) {
        self.shared.state().conditions.chunk_bytes = Some(bytes.max(1));
    }

    /// Ends all faults. A connection that has lost data is reset, as its peer would do.
    pub fn heal(&self) {
        self.shared.state().conditions = ActiveFaults::default();
        for link in self.shared.links() {
            if link.has_lost() {
                link.cut();
            }
        }
    }

    /// Suspends a client when it sends the pattern of `breakpoint`, counted from now over all connections.
    pub fn set_breakpoint(&self, breakpoint: Breakpoint) -> PendingBreakpoint {
        let (reached, pending) = oneshot::channel();
        self.shared
            .state()
            .breakpoints
            .push(ActiveBreakpoint::new(breakpoint, reached));
        PendingBreakpoint::new(pending)
    }

    /// Returns the number of open connections.
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

    fn conditions(&self) -> ActiveFaults {
        self.state().conditions
    }

    /// Returns the open connections.
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
