//! Owning partitions: a fair share of them, as long as this copy lives.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::lease::Membership;
use super::partitions;
use crate::config::Misconfigured;
use crate::config::redis::RedisConfig;
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
    /// How long a copy that gave no sign of life keeps its partitions.
    pub lease_ttl: Duration,
    /// Says how many partitions this copy serves.
    pub count: &'static Gauge<0>,
}

struct Served {
    token: CancellationToken,
    task: JoinHandle<()>,
}

impl Ownership<'_> {
    /// Has `serve` serve this copy's share of the partitions until `token` is cancelled, then gives them back. `serve` ends when its own
    /// token is cancelled: it has finished by then what it had begun.
    ///
    /// # Errors
    /// When Redis holds another number of partitions by now. Whatever else fails is tried again, and shows in `readiness` as `redis`.
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
        while !token.is_cancelled() && result.is_ok() {
            match self.balance(&membership, &mut conn, &serve, &mut served).await {
                Ok(()) => readiness.ok("redis"),
                Err(error) if Misconfigured::caused(&error) => result = Err(error),
                Err(error) => readiness.fail("redis", format!("{error:#}")),
            }
            let _ = tokio::time::timeout(self.lease_ttl / 5, token.cancelled()).await;
        }
        stop(&membership, &mut conn, std::mem::take(&mut served)).await;
        if let Err(error) = membership.leave(&mut conn).await {
            tracing::warn!(%error, "could not say good-bye; the leases end by themselves");
        }
        result
    }

    async fn balance<F>(
        &self,
        membership: &Membership,
        conn: &mut Connection,
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
        let share = membership
            .share(conn, self.partitions)
            .await
            .context("reading the members")?;
        // One that has ended by itself, as after a panic, is taken up anew.
        let over = |partition: &u16, served: &mut Served| !share.contains(partition) || served.task.is_finished();
        let over: BTreeMap<u16, Served> = served.extract_if(.., over).collect();
        stop(membership, conn, over).await;
        for partition in share {
            let held = membership.hold(conn, partition).await.context("renewing a lease")?;
            match served.get(&partition) {
                None if held => {
                    tracing::info!(partition, "serving");
                    let token = CancellationToken::new();
                    let task = tokio::spawn(serve(partition, token.clone()));
                    served.insert(partition, Served { token, task });
                }
                Some(_) if !held => {
                    let lost = served.remove(&partition).map(|lost| (partition, lost));
                    stop(membership, conn, lost.into_iter().collect()).await;
                }
                _ => {}
            }
        }
        self.count.set(f64::from(u16::try_from(served.len())?));
        Ok(())
    }
}

/// Lets the partitions finish their batches, and gives their leases back.
async fn stop(membership: &Membership, conn: &mut Connection, served: BTreeMap<u16, Served>) {
    for served in served.values() {
        served.token.cancel();
    }
    for (partition, served) in served {
        if let Err(error) = served.task.await {
            tracing::error!(partition, %error, "partition ended badly");
        }
        if let Err(error) = membership.release(conn, partition).await {
            tracing::warn!(partition, %error, "could not release the lease; it ends by itself");
        }
        tracing::info!(partition, "handed over");
    }
}
