//! A network between workers and stores that can fail: each worker has its own proxy to each store.

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
    fn usual_port(self) -> u16 {
        match self {
            Self::Redis => 6379,
            Self::Database => 5432,
        }
    }
}

/// A proxy for each worker and store. It is created at the worker's first start and kept over restarts.
#[derive(Debug, Default)]
pub struct Network {
    proxies: Mutex<BTreeMap<(String, Store), Arc<Proxy>>>,
}

impl Network {
    /// Returns `url` of `store` with the address of the proxy of `worker`.
    pub fn route(&self, worker: &str, store: Store, url: &str) -> String {
        let mut url: Url = url.parse().expect("a URL");
        let mut proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let proxy = proxies
            .entry((worker.to_owned(), store))
            .or_insert_with(|| Arc::new(Proxy::start(address(&url, store)).expect("a free port")));
        url.set_host(Some("127.0.0.1")).expect("a URL with a host");
        url.set_port(Some(proxy.port())).expect("a URL with a port");
        url.into()
    }

    /// Returns the proxy of `worker` to `store`.
    pub fn proxy(&self, worker: &str, store: Store) -> Arc<Proxy> {
        let proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let proxy = proxies.get(&(worker.to_owned(), store));
        proxy
            .unwrap_or_else(|| panic!("{worker} has no proxy to {store:?}"))
            .clone()
    }

    /// Returns every proxy.
    pub fn proxies(&self) -> Vec<Arc<Proxy>> {
        let proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        proxies.values().cloned().collect()
    }

    /// Returns every worker's proxy to `store`.
    pub fn proxies_to(&self, store: Store) -> Vec<Arc<Proxy>> {
        let proxies = self.proxies.lock().unwrap_or_else(PoisonError::into_inner);
        let to = proxies.iter().filter(|((_, other), _)| *other == store);
        to.map(|(_, proxy)| proxy.clone()).collect()
    }
}

fn address(url: &Url, store: Store) -> SocketAddr {
    let host = url.host_str().expect("a URL with a host");
    let port = url.port().unwrap_or(store.usual_port());
    let mut addresses = (host, port).to_socket_addrs().expect("a known host");
    addresses.next().expect("an address")
}
