//! The worker's connections: opened when needed, checked before use, replaced when broken or old.

use bb8::{ManageConnection, RunError};
use diesel_async::pooled_connection::PoolableConnection;
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};

use super::connection::{ConnectError, connect};
use super::error::Fault;
use crate::config::postgres::PostgresConfig;

/// A pool of connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    connections: bb8::Pool<Manager>,
    config: PostgresConfig,
}

/// A connection of the pool, given back when dropped; dereferences to [`AsyncPgConnection`].
pub type PooledConnection<'a> = bb8::PooledConnection<'a, Manager>;

impl Pool {
    /// A pool whose connections say that they are `application`. Opens none yet: the server may be down.
    pub fn new(config: &PostgresConfig, application: &'static str) -> Self {
        let connections = bb8::Pool::builder()
            .max_size(config.pool_size)
            .connection_timeout(config.connect_timeout)
            // The caller decides about trying again, and learns the reason at once.
            .retry_connection(false)
            .build_unchecked(Manager { config: config.clone(), application });
        Self { connections, config: config.clone() }
    }

    /// A connection that answered just now.
    ///
    /// # Errors
    /// When none can be opened, or all are in use for longer than `connect_timeout`.
    pub async fn get(&self) -> Result<PooledConnection<'_>, ConnectError> {
        self.connections.get().await.map_err(|error| match error {
            RunError::User(error) => error,
            RunError::TimedOut => {
                let reason = format!("all {} connections of the pool are in use; raise `postgres.pool_size`", self.config.pool_size);
                ConnectError::new(&self.config, Fault::Transient, reason)
            }
        })
    }

    /// A connection of its own, outside the pool, for what changes its session or takes long.
    ///
    /// # Errors
    /// When it can't be opened.
    pub async fn dedicated(&self, application: &str) -> Result<AsyncPgConnection, ConnectError> {
        connect(&self.config, application).await
    }
}

/// Opens and checks the connections of a [`Pool`].
#[derive(Debug)]
pub struct Manager {
    config: PostgresConfig,
    application: &'static str,
}

impl ManageConnection for Manager {
    type Connection = AsyncPgConnection;
    type Error = ConnectError;

    async fn connect(&self) -> Result<AsyncPgConnection, ConnectError> {
        connect(&self.config, self.application).await
    }

    async fn is_valid(&self, connection: &mut AsyncPgConnection) -> Result<(), ConnectError> {
        connection
            .batch_execute("SELECT 1")
            .await
            .map_err(|error| ConnectError::new(&self.config, Fault::Transient, error.to_string()))
    }

    fn has_broken(&self, connection: &mut AsyncPgConnection) -> bool {
        std::thread::panicking() || connection.is_broken()
    }
}
