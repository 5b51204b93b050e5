//! The connections of a worker: opened on demand, checked before use, replaced when broken or old.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bb8::{ErrorSink, ManageConnection, RunError};
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::PoolableConnection;
use tokio::sync::broadcast;

use super::connection::{ConnectError, connect};
use super::error::{Fault, describe};
use super::queries::identity::{identity, may_be_read_only_no_longer};
use crate::config::postgres::PostgresConfig;
use crate::domain::database_identity::DatabaseIdentity;

/// A pool of connections. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Pool {
    connections: bb8::Pool<Manager>,
    failures: broadcast::Sender<ConnectError>,
    config: PostgresConfig,
    only: Arc<OnceLock<DatabaseIdentity>>,
}

/// A connection of the pool; dropping it returns it. Dereferences to [`AsyncPgConnection`].
pub type PooledConnection<'a> = bb8::PooledConnection<'a, Manager>;

impl Pool {
    /// Creates a pool whose connections have the name `application`. Opens none yet: the server may be down.
    pub fn new(config: &PostgresConfig, application: &'static str) -> Self {
        let (failures, _) = broadcast::channel(1);
        let only = Arc::new(OnceLock::new());
        let connections = bb8::Pool::builder()
            .max_size(config.pool_size)
            // Longer than an attempt to connect, whose failure says more.
            .connection_timeout(config.connect_timeout + Duration::from_secs(1))
            // The caller retries, and needs the reason immediately.
            .retry_connection(false)
            .error_sink(Box::new(Failures(failures.clone())))
            .build_unchecked(Manager {
                config: config.clone(),
                application,
                only: Arc::clone(&only),
            });
        Self {
            connections,
            failures,
            config: config.clone(),
            only,
        }
    }

    /// Restricts new connections to `database`: the name in the URL may resolve to another one later.
    pub fn keep_to(&self, database: DatabaseIdentity) {
        // A second call has no effect.
        let _ = self.only.set(database);
    }

    /// Returns a connection that just answered.
    ///
    /// # Errors
    /// If none can be opened, or all are in use for longer than `connect_timeout`.
    pub async fn get(&self) -> Result<PooledConnection<'_>, ConnectError> {
        let mut failures = self.failures.subscribe();
        tokio::select! {
            biased;
            got = self.connections.get() => got.map_err(|error| match error {
                RunError::User(Unusable::NotOpened(error)) => error,
                RunError::User(Unusable::Stale) | RunError::TimedOut => self.exhausted(),
            }),
            Ok(error) = failures.recv() => Err(error),
        }
    }

    fn exhausted(&self) -> ConnectError {
        let reason = format!(
            "all {} connections of the pool are in use; raise `postgres.pool_size`",
            self.config.pool_size
        );
        ConnectError::new(&self.config, Fault::Transient, reason)
    }
}

/// Passes a failure to open a connection to the tasks that wait for one, which bb8 would leave waiting until the
/// time-out.
#[derive(Debug)]
struct Failures(broadcast::Sender<ConnectError>);

impl ErrorSink<Unusable> for Failures {
    fn sink(&self, error: Unusable) {
        if let Unusable::NotOpened(error) = error {
            // No task may be waiting.
            let _ = self.0.send(error);
        }
    }

    fn boxed_clone(&self) -> Box<dyn ErrorSink<Unusable>> {
        Box::new(Self(self.0.clone()))
    }
}

/// Reason to discard a connection.
#[derive(Debug)]
pub enum Unusable {
    /// The connection could not be opened.
    NotOpened(ConnectError),
    /// The connection does not answer; the pool takes another one.
    Stale,
}

/// Opens and checks the connections of a [`Pool`].
#[derive(Debug)]
pub struct Manager {
    config: PostgresConfig,
    application: &'static str,
    only: Arc<OnceLock<DatabaseIdentity>>,
}

impl Manager {
    async fn open(&self) -> Result<AsyncPgConnection, ConnectError> {
        let mut connection = connect(&self.config, self.application).await?;
        if let Some(only) = self.only.get() {
            let found = identity(&mut connection)
                .await
                .map_err(|error| ConnectError::new(&self.config, Fault::of(&error), describe(&error)))?;
            if found != *only {
                let reason = format!("it is database {found} now, and was {only} before; nothing is written to it");
                return Err(ConnectError::new(&self.config, Fault::Permanent, reason));
            }
        }
        Ok(connection)
    }
}

impl ManageConnection for Manager {
    type Connection = AsyncPgConnection;
    type Error = Unusable;

    async fn connect(&self) -> Result<AsyncPgConnection, Unusable> {
        self.open().await.map_err(Unusable::NotOpened)
    }

    /// Also replaces a connection that was opened while new ones were read-only: its default stays.
    async fn is_valid(&self, connection: &mut AsyncPgConnection) -> Result<(), Unusable> {
        match may_be_read_only_no_longer(connection).await {
            Ok(false) => Ok(()),
            _ => Err(Unusable::Stale),
        }
    }

    fn has_broken(&self, connection: &mut AsyncPgConnection) -> bool {
        std::thread::panicking() || connection.is_broken()
    }
}
