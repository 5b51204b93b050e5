//! Owning partitions: a fair share of them, as long as this copy lives.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use storage_core::config::Misconfigured;
use storage_core::redis::connection::Connection;
use storage_core::redis::lease::Membership;
use storage_core::redis::partitions;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{HOT_WRITER, Stream};
use storage_core::retry::keep_running;
use storage_core::telemetry::readiness::Readiness;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::metrics;
use crate::partition::Partition;

struct Served {
    token: CancellationToken,
    task: JoinHandle<()>,
}

/// Serves this copy's share of the partitions until `token` is cancelled, then gives them back.
///
/// # Errors
/// When Redis holds another number of partitions by now. Whatever else fails is tried again, and shows in `readiness`.
pub(crate) async fn own(config: Config, readiness: Readiness, token: CancellationToken) -> Result<()> {
    let instance = config.service.instance(&config.telemetry);
    let membership = Membership::new(HOT_WRITER, instance, config.hot.lease_ttl);
    let mut conn = Connection::ordinary(&config.redis);
    let mut served = BTreeMap::new();
    let mut result = Ok(());
    while !token.is_cancelled() && result.is_ok() {
        match balance(&config, &membership, &mut conn, &readiness, &mut served).await {
            Ok(()) => readiness.ok("redis"),
            Err(error) if Misconfigured::caused(&error) => result = Err(error),
            Err(error) => readiness.fail("redis", format!("{error:#}")),
        }
        let _ = tokio::time::timeout(config.hot.lease_ttl / 5, token.cancelled()).await;
    }
    stop(&membership, &mut conn, &readiness, std::mem::take(&mut served)).await;
    if let Err(error) = membership.leave(&mut conn).await {
        tracing::warn!(%error, "could not say good-bye; the leases end by themselves");
    }
    result
}

async fn balance(
    config: &Config,
    membership: &Membership,
    conn: &mut Connection,
    readiness: &Readiness,
    served: &mut BTreeMap<u16, Served>,
) -> Result<()> {
    partitions::check(
        partitions::stored(conn)
            .await
            .context("reading the number of partitions")?,
        config.stream.partitions,
    )?;
    let share = membership
        .share(conn, config.stream.partitions)
        .await
        .context("reading the members")?;
    let foreign: BTreeMap<u16, Served> = served
        .extract_if(.., |partition, _| !share.contains(partition))
        .collect();
    stop(membership, conn, readiness, foreign).await;
    for partition in share {
        let held = membership.hold(conn, partition).await.context("renewing a lease")?;
        match served.get(&partition) {
            None if held => {
                tracing::info!(partition, "serving");
                served.insert(partition, serve(config.clone(), partition, readiness.clone()));
            }
            Some(_) if !held => {
                let lost = served.remove(&partition).map(|lost| (partition, lost));
                stop(membership, conn, readiness, lost.into_iter().collect()).await;
            }
            _ => {}
        }
    }
    for partition in served.keys() {
        let position = position_of(conn, Stream::Ticks(*partition), HOT_WRITER)
            .await
            .context("reading the lag")?;
        let lag = position.and_then(|position| position.lag).unwrap_or_default();
        metrics::LAG.set(
            &partition.to_string(),
            f64::from(u32::try_from(lag).unwrap_or(u32::MAX)),
        );
    }
    metrics::PARTITIONS.set(f64::from(u16::try_from(served.len())?));
    Ok(())
}

fn serve(config: Config, partition: u16, readiness: Readiness) -> Served {
    let token = CancellationToken::new();
    let task = tokio::spawn(serve_until(config, partition, readiness, token.clone()));
    Served { token, task }
}

async fn serve_until(config: Config, partition: u16, readiness: Readiness, token: CancellationToken) {
    let condition = format!("partition {partition}");
    keep_running(condition.clone(), &readiness, &token, async || {
        metrics::PARTITION_STARTS.increment(1);
        let mut served = Partition::take_up(&config, partition).await?;
        readiness.ok(condition.clone());
        served.serve(&token).await
    })
    .await;
}

/// Lets the partitions finish their batches, and gives their leases back.
async fn stop(membership: &Membership, conn: &mut Connection, readiness: &Readiness, served: BTreeMap<u16, Served>) {
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
        readiness.forget(&format!("partition {partition}"));
        tracing::info!(partition, "handed over");
    }
}
