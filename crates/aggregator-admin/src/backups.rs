//! Consumer of `stream:backups`: stores the last backup of each kind for `status` and `/metrics`.

use anyhow::Context;
use storage_core::redis::backups::{last, store_last};
use storage_core::redis::codec::backups::{BackupAnnouncement, decode_entry};
use storage_core::redis::stream::Stream;

use crate::dead_letter;
use crate::metrics::{LAST_BACKUP, LAST_BACKUP_DURATION, LAST_BACKUP_SIZE};
use crate::worker::Worker;

/// Stores announced backups until a shutdown or a failure.
pub(crate) async fn work(worker: Worker) -> anyhow::Result<()> {
    let mut reader = worker.reader(Stream::Backups);
    let mut redis = worker.redis();
    last(&mut redis)
        .await
        .context("reading the last backups")?
        .iter()
        .for_each(show);
    while !worker.token.is_cancelled() {
        for entry in reader.read().await.context("reading backups")? {
            match decode_entry(&entry) {
                Ok(backup) => {
                    store_last(&mut redis, &backup).await.context("recording a backup")?;
                    tracing::info!(
                        name = backup.name,
                        kind = backup.kind,
                        size_bytes = backup.size_bytes,
                        "backup done"
                    );
                    show(&backup);
                }
                Err(reason) => dead_letter::send(&mut redis, Stream::Backups, &entry, reason.to_string()).await?,
            }
            reader
                .acknowledge(&[entry.id])
                .await
                .context("acknowledging a backup")?;
        }
        worker.readiness.ok("backups");
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss)] // metrics are doubles
fn show(backup: &BackupAnnouncement) {
    LAST_BACKUP.set(&backup.kind, backup.started_us as f64 / 1e6);
    LAST_BACKUP_SIZE.set(&backup.kind, backup.size_bytes as f64);
    LAST_BACKUP_DURATION.set(&backup.kind, backup.took_ms as f64 / 1e3);
}
