//! Keeps the WAL archive: has pg_receivewal stream from a replication slot, so that nothing is missed while it is down.

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
use super::recovery::{outdated, segment_number};
use super::{open, tool};
use crate::config::Config;
use crate::destination::{Destination, make_folder};
use crate::manifest::{Content, Kind};
use crate::metrics;
use crate::tool::succeeded;

/// What the condition on `/readyz` is called.
pub(crate) const CONDITION: &str = "wal";

const LAG_INTERVAL: Duration = Duration::from_secs(5);
/// Pause between two checks whether another replica has stopped archiving.
const TURN_INTERVAL: Duration = Duration::from_secs(10);

/// Archives WAL until `token` is cancelled. One replica archives; the others stand by.
pub(crate) async fn archive(
    config: Config,
    destination: Destination,
    readiness: Readiness,
    token: CancellationToken,
) -> anyhow::Result<()> {
    keep_running(CONDITION, &readiness, &token, async || {
        let Some(_turn) = destination.take_turn("wal")? else {
            readiness.ok(CONDITION);
            let _ = token.run_until_cancelled(sleep(TURN_INTERVAL)).await;
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

/// Streams until the connection breaks, which is an error, or `token` is cancelled.
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
        .explained("asking for the system identifier")?;
    // It is our turn, so whoever streams from the slot was left behind by a copy that was killed.
    if queries::free_slot(&mut connection, &config.backup.wal_slot)
        .await
        .explained("freeing the replication slot")?
    {
        info!(slot = config.backup.wal_slot, "ended a stream that nobody supervised");
    }
    let folder = destination.wal_folder(&system);
    make_folder(&folder)?;
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
        .context("the folder of backups has a name that is not text")?;
    let mut receiver = start(&["--synchronous", "--no-loop", "--directory", folder])?;
    info!(folder, slot = config.backup.wal_slot, "archiving WAL");
    loop {
        tokio::select! {
            _ = receiver.wait() => {
                ended(receiver).await?;
                bail!("the server ended the stream");
            }
            () = token.cancelled() => return stop(receiver).await,
            () = sleep(LAG_INTERVAL) => {
                let slot = queries::slot(&mut connection, &config.backup.wal_slot).await.explained("measuring the lag")?;
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
    let mut complaints = String::new();
    if let Some(mut stderr) = receiver.stderr.take() {
        stderr.read_to_string(&mut complaints).await?;
    }
    succeeded("pg_receivewal", receiver.wait().await?, &complaints)
}

/// Lets it write what it has and say so to the server.
async fn stop(receiver: Child) -> anyhow::Result<()> {
    if let Some(id) = receiver.id().and_then(|id| i32::try_from(id).ok()) {
        kill(Pid::from_raw(id), Signal::SIGTERM).context("ending pg_receivewal")?;
    }
    ended(receiver).await
}

/// Removes the WAL that no base backup needs any more; without base backups, none. Says how many files went.
pub(crate) async fn prune(destination: &Destination, dry_run: bool) -> anyhow::Result<usize> {
    let mut removed = 0;
    let backups = destination.backups(Kind::Base).await?;
    let contents = backups.iter().filter_map(|manifest| match &manifest.content {
        Content::Base(base) => Some(base),
        Content::Redis(_) | Content::Postgres(_) => None,
    });
    // The one that begins first in the WAL, which need not be the oldest: a server that was restored to an earlier moment goes on from
    // there, on another timeline.
    let mut first = std::collections::BTreeMap::new();
    for base in contents {
        let first = first.entry(&base.system_identifier).or_insert(&base.start_segment);
        if segment_number(&base.start_segment) < segment_number(first) {
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
