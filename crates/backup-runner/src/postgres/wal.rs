//! Maintains the WAL archive: pg_receivewal streams from a replication slot, so the server keeps the WAL while this
//! worker is down.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::backup as queries;
use storage_core::retry::keep_running;
use storage_core::telemetry::readiness::Readiness;
use tokio::io::AsyncReadExt;
use tokio::process::Child;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::archive::names;
use super::base::refuse_without_replication;
use super::segment::{outdated, without_timeline};
use super::{open, tool};
use crate::config::Config;
use crate::content::Content;
use crate::destination::{Destination, create_folder};
use crate::manifest::Kind;
use crate::metrics;
use crate::tool::succeeded;

/// Name of the condition on `/readyz`.
pub(crate) const CONDITION: &str = "wal";

const LAG_INTERVAL: Duration = Duration::from_secs(5);
/// Time between two attempts to acquire the lock that another replica holds.
const LOCK_INTERVAL: Duration = Duration::from_secs(10);

/// Archives WAL until `token` is cancelled. One replica at a time holds the lock and archives; the others stand by.
pub(crate) async fn archive(
    config: Config,
    destination: Destination,
    readiness: Readiness,
    token: CancellationToken,
) -> anyhow::Result<()> {
    keep_running(CONDITION, &readiness, &token, async || {
        let Some(_lock) = destination.try_lock("wal")? else {
            readiness.ok(CONDITION);
            let _ = token.run_until_cancelled(sleep(LOCK_INTERVAL)).await;
            return Ok(());
        };
        stream(&config, &destination, &readiness, &token)
            .await
            .inspect_err(|_| {
                metrics::WAL_FAILURES.increment(1);
                metrics::WAL_LAG.set(f64::NAN);
            })
    })
    .await;
    Ok(())
}

/// Streams until `token` is cancelled; the end of the connection is an error.
async fn stream(
    config: &Config,
    destination: &Destination,
    readiness: &Readiness,
    token: &CancellationToken,
) -> anyhow::Result<()> {
    let (mut connection, server) = open(&config.postgres).await?;
    refuse_without_replication(&server)?;
    let system = queries::system_identifier(&mut connection)
        .await
        .explained("reading the server's system identifier")?;
    // This replica holds the lock, so a stream on the slot was left by a replica that was killed.
    if queries::terminate_slot_client(&mut connection, &config.backup.wal_slot)
        .await
        .explained("freeing the replication slot")?
    {
        info!(
            slot = config.backup.wal_slot,
            "terminated the replication connection that a killed replica has left"
        );
    }
    let folder = destination.wal_folder(&system);
    create_folder(&folder)?;
    let start = |args: &[&str]| -> anyhow::Result<Child> {
        let programs = config.backup.pg_bin.as_deref();
        tool(&config.postgres, programs, "pg_receivewal")?
            .args(["--no-password", "--slot", &config.backup.wal_slot])
            .args(args)
            .start()
    };
    ended(start(&["--create-slot", "--if-not-exists"])?)
        .await
        .context("creating the replication slot")?;
    let folder = folder
        .to_str()
        .context("the backup folder has a name that is not UTF-8; rename it")?;
    let mut receiver = start(&["--synchronous", "--no-loop", "--directory", folder])?;
    info!(folder, slot = config.backup.wal_slot, "archiving WAL");
    loop {
        tokio::select! {
            _ = receiver.wait() => {
                ended(receiver).await?;
                bail!("the server closed the replication connection");
            }
            () = token.cancelled() => return stop(receiver).await,
            () = sleep(LAG_INTERVAL) => {
                let slot = queries::slot(&mut connection, &config.backup.wal_slot)
                    .await
                    .explained("reading the state of the replication slot")?;
                let lag_bytes = slot.as_ref().and_then(|slot| slot.lag_bytes);
                // Bytes of WAL stay far below 2^53.
                #[allow(clippy::cast_precision_loss)]
                metrics::WAL_LAG.set(lag_bytes.map_or(f64::NAN, |bytes| bytes as f64));
                if slot.is_some_and(|slot| slot.active) {
                    readiness.ok(CONDITION);
                }
            }
        }
    }
}

async fn ended(mut receiver: Child) -> anyhow::Result<()> {
    let mut output = String::new();
    if let Some(mut stderr) = receiver.stderr.take() {
        stderr.read_to_string(&mut output).await?;
    }
    succeeded("pg_receivewal", receiver.wait().await?, &output)
}

/// Ends pg_receivewal with SIGTERM, so that it writes and confirms the WAL that it received.
async fn stop(receiver: Child) -> anyhow::Result<()> {
    if let Some(id) = receiver.id().and_then(|id| i32::try_from(id).ok()) {
        kill(Pid::from_raw(id), Signal::SIGTERM).context("ending pg_receivewal")?;
    }
    ended(receiver).await
}

/// Removes the WAL that no base backup needs, and returns the number of files; without base backups it removes none.
pub(crate) async fn prune(destination: &Destination, dry_run: bool) -> anyhow::Result<usize> {
    let mut removed = 0;
    let backups = destination.backups(Kind::Base).await?;
    let contents = backups.iter().filter_map(|manifest| match &manifest.content {
        Content::Base(base) => Some(base),
        Content::Redis(_) | Content::Postgres(_) => None,
    });
    // The base backup with the lowest WAL position need not be the oldest: a server that was recovered to an earlier
    // time continues from there on another timeline.
    let mut first = BTreeMap::new();
    for base in contents {
        let first = first.entry(&base.system_identifier).or_insert(&base.start_segment);
        if without_timeline(&base.start_segment) < without_timeline(first) {
            *first = &base.start_segment;
        }
    }
    for (system, segment) in first {
        let folder = destination.wal_folder(system);
        for file in outdated(&names(&folder)?, segment) {
            if !dry_run {
                fs::remove_file(folder.join(&file)).with_context(|| format!("removing {file}"))?;
            }
            removed += 1;
        }
    }
    Ok(removed)
}
