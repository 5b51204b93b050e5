//! [`Worker`]: the context that all tasks of `run` share.

use std::time::Duration;

use anyhow::Context;
use diesel_async::AsyncPgConnection;
use storage_core::postgres::edition::Server;
use storage_core::postgres::error::Explained;
use storage_core::postgres::pool::Pool;
use storage_core::redis::connection::Connection;
use storage_core::redis::group_reader::{GroupReader, GroupReaderOptions};
use storage_core::redis::lease;
use storage_core::redis::lost::Losses;
use storage_core::redis::stream::{AGGREGATOR_ADMIN, Stream};
use storage_core::telemetry::readiness::Readiness;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Longest time that a read waits for an entry; a shutdown waits as long.
pub(crate) const BLOCK: Duration = Duration::from_millis(500);

/// Configuration, connections and state of the worker. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) config: Config,
    pub(crate) server: Server,
    pub(crate) pool: Pool,
    pub(crate) readiness: Readiness,
    pub(crate) losses: Losses,
    pub(crate) token: CancellationToken,
}

impl Worker {
    /// Returns the name of this replica.
    pub(crate) fn instance(&self) -> String {
        self.config.service.instance(&self.config.telemetry)
    }

    /// Returns `true` if this replica holds the lease of the policies.
    pub(crate) async fn leads(&self) -> anyhow::Result<bool> {
        let holders = lease::holders(&mut self.redis(), AGGREGATOR_ADMIN, 1)
            .await
            .context("reading the lease of the policies")?;
        let instance = self.instance();
        Ok(holders.into_iter().flatten().any(|holder| holder == instance))
    }

    /// Detects the server again, because its scheduler may have started or stopped meanwhile.
    pub(crate) async fn detect_server(&self, connection: &mut AsyncPgConnection) -> anyhow::Result<Server> {
        let found = Server::detect(connection)
            .await
            .explained("looking for the scheduler of TimescaleDB")?;
        Ok(found.unwrap_or_else(|| self.server.clone()))
    }

    /// Creates a connection for commands that do not block.
    pub(crate) fn redis(&self) -> Connection {
        Connection::ordinary(&self.config.redis)
    }

    /// Creates a consumer of this worker's group on `stream`, which starts with its pending entries.
    pub(crate) fn reader(&self, stream: Stream) -> GroupReader {
        let options = GroupReaderOptions {
            group: AGGREGATOR_ADMIN,
            consumer: self.instance(),
            batch: self.config.admin.batch,
            block: BLOCK,
            claim_after: self.config.admin.claim_after,
            losses: self.losses.clone(),
        };
        GroupReader::new(&self.config.redis, stream, options)
    }
}
