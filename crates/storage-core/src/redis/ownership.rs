//! Owning partitions: a fair share of them, as long as this copy lives.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::connection::Connection;
use super::database;
use super::lease::Membership;
use super::partitions;
use crate::config::Misconfigured;
use crate::config::redis::RedisConfig;
use crate::domain::database_identity::DatabaseIdentity;
use crate::telemetry::metrics::Gauge;
use crate::telemetry::readiness::Readiness;

/// A copy of a worker that shares partitions with its like.
#[derive(Debug)]
pub struct Ownership<'a> {
    /// Where the leases are.
    pub redis: &'a RedisConfig,
    /// What the worker is called.
    pub worker: &'static str,
    /// What the copy is called.
    pub instance: String,
    /// How many partitions there are.
    pub partitions: u16,
    /// The database that it writes to, where it writes to one.
    pub database: Option<&'a DatabaseIdentity>,
    /// How long a copy that gave no sign of life keeps its partitions.
    pub lease_ttl: Duration,
    /// Says how many partitions this copy serves.
    pub count: &'static Gauge<0>,
}

struct Served {
    token: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Ownership<'_> {
    /// Has `serve` serve this copy's share of the partitions until `token` is cancelled, then gives them back. `serve` ends when its own
    /// token is cancelled: it has finished by then what it had begun.
    ///
    /// # Errors
    /// When Redis holds another number of partitions by now, or belongs to another database. Whatever else fails is tried again, and shows in `readiness` as `redis`.
    pub async fn own<F>(
        self,
        readiness: &Readiness,
        token: &CancellationToken,
        serve: impl Fn(u16, CancellationToken) -> F,
    ) -> Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let membership = Membership::new(self.worker, self.instance.clone(), self.lease_ttl);
        let mut conn = Connection::ordinary(self.redis);
        let mut served = BTreeMap::new();
        let mut result = Ok(());
        let mut is_failing = false;
        while !token.is_cancelled() && result.is_ok() {
            match self.balance(&membership, &mut conn, token, &serve, &mut served).await {
                Ok(()) => {
                    is_failing = false;
                    readiness.ok("redis");
                }
                Err(error) if Misconfigured::caused(&error) => result = Err(error),
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!("sharing the partitions failed, trying again: {error:#}");
                    }
                    readiness.fail("redis", format!("{error:#}"));
                }
            }
            self.count.set(f64::from(u16::try_from(served.len())?));
            let _ = tokio::time::timeout(self.lease_ttl / 5, token.cancelled()).await;
        }
        for served in served.values() {
            served.token.cancel();
        }
        for (partition, served) in served {
            served.end(&membership, &mut conn, partition).await;
        }
        self.count.set(0.0);
        if let Err(error) = membership.leave(&mut conn).await {
            tracing::warn!(%error, "could not say good-bye; the leases end by themselves");
        }
        result
    }

    /// Keeps the leases of what is served, and begins and ends to serve as the share wants it. Waits for nobody's end: a partition that is
    /// given up is held until its batch is finished.
    async fn balance<F>(
        &self,
        membership: &Membership,
        conn: &mut Connection,
        token: &CancellationToken,
        serve: &impl Fn(u16, CancellationToken) -> F,
        served: &mut BTreeMap<u16, Served>,
    ) -> Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        partitions::check(
            partitions::stored(conn)
                .await
                .context("reading the number of partitions")?,
            self.partitions,
        )?;
        if let Some(found) = self.database {
            database::ensure(conn, found).await.context("comparing the database")?;
        }
        let share = membership
            .share(conn, self.partitions)
            .await
            .context("reading the members")?;
        // Also those that have ended by themselves, as after a panic: they are taken up anew.
        let ended: Vec<_> = served.extract_if(.., |_, served| served.task.is_finished()).collect();
        for (partition, served) in ended {
            served.end(membership, conn, partition).await;
        }
        for partition in 0..self.partitions {
            let (is_ours, current) = (share.contains(&partition), served.get(&partition));
            if !is_ours && current.is_none() {
                continue;
            }
            let held = membership.hold(conn, partition).await.context("renewing a lease")?;
            match current {
                Some(current) if !is_ours || !held => current.token.cancel(),
                None if held => {
                    tracing::info!(partition, "serving");
                    let token = token.child_token();
                    let task = AbortOnDropHandle::new(tokio::spawn(serve(partition, token.clone())));
                    served.insert(partition, Served { token, task });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Served {
    /// Waits until the partition has finished its batch, and gives its lease back.
    async fn end(self, membership: &Membership, conn: &mut Connection, partition: u16) {
        if let Err(error) = self.task.await {
            tracing::error!(partition, %error, "partition ended badly");
        }
        if let Err(error) = membership.release(conn, partition).await {
            tracing::warn!(partition, %error, "could not release the lease; it ends by itself");
        }
        tracing::info!(partition, "handed over");
    }
}
