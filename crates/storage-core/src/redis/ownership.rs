//! Ownership of a fair share of the partitions by each replica of a worker.

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

/// A replica of a worker that shares the partitions with the other replicas.
#[derive(Debug)]
pub struct Ownership<'a> {
    /// Redis that holds the leases.
    pub redis: &'a RedisConfig,
    /// Name of the worker.
    pub worker: &'static str,
    /// Name of the replica.
    pub instance: String,
    /// Configured number of partitions.
    pub partitions: u16,
    /// Database that the worker writes to, if any.
    pub database: Option<&'a DatabaseIdentity>,
    /// Time after its last renewal until a lease expires.
    pub lease_ttl: Duration,
    /// Gauge of the partitions that this replica serves.
    pub count: &'static Gauge<0>,
}

/// A partition that this replica serves.
struct ServedPartition {
    token: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Ownership<'_> {
    /// Runs `serve` for each partition of this replica's share until `token` is cancelled, then releases them. `serve`
    /// must finish its batch and return after its own token is cancelled.
    ///
    /// # Errors
    /// [`Misconfigured`] if Redis now holds another number of partitions or belongs to another database. Other errors
    /// are retried, and reported in `readiness` as `redis`.
    pub async fn run<F>(
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
            match self.rebalance(&membership, &mut conn, token, &serve, &mut served).await {
                Ok(()) => {
                    is_failing = false;
                    readiness.ok("redis");
                }
                Err(error) if Misconfigured::caused(&error) => result = Err(error),
                Err(error) => {
                    if !std::mem::replace(&mut is_failing, true) {
                        tracing::warn!("could not rebalance the partitions; trying again: {error:#}");
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
            served.release(&membership, &mut conn, partition).await;
        }
        self.count.set(0.0);
        if let Err(error) = membership.leave(&mut conn).await {
            tracing::warn!(%error, "could not remove this replica from the members; its membership expires");
        }
        result
    }

    /// Renews the leases of the served partitions, and starts and stops tasks according to the share. It does not wait
    /// for a stopped task: the lease of its partition is held until the batch is finished.
    async fn rebalance<F>(
        &self,
        membership: &Membership,
        conn: &mut Connection,
        token: &CancellationToken,
        serve: &impl Fn(u16, CancellationToken) -> F,
        served: &mut BTreeMap<u16, ServedPartition>,
    ) -> Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        partitions::ensure(conn, self.partitions).await?;
        if let Some(found) = self.database {
            database::ensure(conn, found)
                .await
                .context("checking the identity of the database")?;
        }
        let share = membership
            .share(conn, self.partitions)
            .await
            .context("reading the members")?;
        // A task that has panicked is among them; its partition is acquired again.
        let ended: Vec<_> = served.extract_if(.., |_, served| served.task.is_finished()).collect();
        for (partition, served) in ended {
            served.release(membership, conn, partition).await;
        }
        for partition in 0..self.partitions {
            let (is_ours, current) = (share.contains(&partition), served.get(&partition));
            if !is_ours && current.is_none() {
                continue;
            }
            let is_held = membership.acquire(conn, partition).await.context("renewing a lease")?;
            match current {
                Some(current) if !is_ours || !is_held => current.token.cancel(),
                None if is_held => {
                    tracing::info!(partition, "serving");
                    let token = token.child_token();
                    let task = AbortOnDropHandle::new(tokio::spawn(serve(partition, token.clone())));
                    served.insert(partition, ServedPartition { token, task });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl ServedPartition {
    /// Waits until the task has finished its batch, and releases the lease.
    async fn release(self, membership: &Membership, conn: &mut Connection, partition: u16) {
        if let Err(error) = self.task.await {
            tracing::error!(partition, %error, "the partition's task failed");
        }
        if let Err(error) = membership.release(conn, partition).await {
            tracing::warn!(partition, %error, "could not release the lease; it expires");
        }
        tracing::info!(partition, "released the lease");
    }
}
