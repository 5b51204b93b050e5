//! Announces finished backups on `stream:backups`.

use anyhow::Context;
use storage_core::config::redis::RedisConfig;
use storage_core::redis::codec::backups::{BackupAnnouncement, entry_fields};
use storage_core::redis::connection::Connection;
use storage_core::redis::stream::{self, Stream};

use crate::manifest::Manifest;
use crate::metrics;

/// Announces a backup. The backup is valid without its announcement, so a failure is only logged.
pub(crate) async fn announce(config: &RedisConfig, manifest: &Manifest) {
    if let Err(error) = add(config, manifest).await {
        metrics::UNANNOUNCED.increment(1);
        tracing::warn!(
            "{}/{} is complete, but announcing it failed, so `aggregator-admin status` does not list it: {error:#}",
            manifest.kind(),
            manifest.name
        );
    }
}

async fn add(config: &RedisConfig, manifest: &Manifest) -> anyhow::Result<()> {
    let took = manifest.finished - manifest.started;
    let announcement = BackupAnnouncement {
        name: manifest.name.to_string(),
        kind: manifest.kind().to_string(),
        started_us: manifest.started.timestamp_micros(),
        took_ms: took.num_milliseconds().try_into().unwrap_or(0),
        size_bytes: manifest.size_bytes(),
    };
    let command = stream::add(Stream::Backups, &entry_fields(&announcement));
    command
        .query_async::<()>(&mut Connection::ordinary(config))
        .await
        .with_context(|| format!("adding to stream:backups at {}", config.url))
}
