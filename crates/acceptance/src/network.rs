//! The network between the workers and their stores, as a scenario may let it fail: each worker has its own way to each store.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

use url::Url;

use crate::proxy::Proxy;

/// A store that workers speak to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Store {
    /// Redis.
    Redis,
    /// PostgreSQL.
    Database,
}

impl Store {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Redis, Self::Database];

    fn variable(self) -> &'static str {
        match self {
            Self::Redis => "REDIS_URL",
            Self::Database => "DATABASE_URL",
        }
    }

    fn usual_port(self) -> u16 {
        match self {
            Self::Redis => 6379,
            Self::Database => 5432,
        }
    }
}

/// A proxy for each worker and store, made when the worker is first started. Restarts go the same way.
#[derive(Debug, Default)]
pub struct Network {
    ways: Mutex<BTreeMap<(String, Store), Arc<Proxy>>>,
}

impl Network {
    /// Has the URLs in `environment` lead through the proxies of `worker`.
    ///
    /// # Panics
    /// When a URL names no server.
    pub fn route(&self, worker: &str, environment: &mut BTreeMap<String, String>) {
        for store in Store::ALL {
            let Some(url) = environment.get_mut(store.variable()) else {
                continue;
            };
            let mut parsed: Url = url.parse().expect("a URL");
            let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
            let way = ways
                .entry((worker.to_owned(), store))
                .or_insert_with(|| Arc::new(Proxy::start(address(&parsed, store)).expect("a free port")));
            parsed.set_host(Some("127.0.0.1")).expect("a URL with a host");
            parsed.set_port(Some(way.port())).expect("a URL with a port");
            *url = parsed.to_string();
        }
    }

    /// The way of `worker` to `store`.
    ///
    /// # Panics
    /// When it was never started.
    pub fn way(&self, worker: &str, store: Store) -> Arc<Proxy> {
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let way = ways.get(&(worker.to_owned(), store));
        way.unwrap_or_else(|| panic!("{worker} has no way to {store:?}"))
            .clone()
    }

    /// Every way.
    pub fn ways(&self) -> Vec<Arc<Proxy>> {
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        ways.values().cloned().collect()
    }

    /// Every worker's way to `store`.
    pub fn ways_to(&self, store: Store) -> Vec<Arc<Proxy>> {
        let ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let to = ways.iter().filter(|((_, other), _)| *other == store);
        to.map(|(_, way)| way.clone()).collect()
    }
}

fn address(url: &Url, store: Store) -> SocketAddr {
    let host = url.host_str().expect("a URL with a host");
    let port = url.port().unwrap_or(store.usual_port());
    let mut addresses = (host, port).to_socket_addrs().expect("a known host");
    addresses.next().expect("an address")
}
