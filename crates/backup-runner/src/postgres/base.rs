//! Base backups: all files of the server, from which WAL recovers any later time.

use std::fs;

use anyhow::{Context, anyhow, ensure};
use diesel_async::AsyncPgConnection;
use serde::Deserialize;
use storage_core::postgres::edition::Server;
use storage_core::postgres::error::Explained;
use storage_core::postgres::queries::backup as queries;

use super::{open, segment, tool};
use crate::config::Config;
use crate::content::{BaseContent, Content};
use crate::destination::Destination;
use crate::draft::Draft;
use crate::manifest::{Kind, Manifest};
use crate::tool;

/// Archive of the data directory.
pub(crate) const FILES: &str = "base.tar.gz";
/// Archive of the WAL that makes the data directory consistent.
pub(crate) const WAL: &str = "pg_wal.tar.gz";
/// Manifest written by pg_basebackup and read by pg_verifybackup.
pub(crate) const OWN_MANIFEST: &str = "backup_manifest";

/// Backs up the server of `postgres.url`.
pub(crate) async fn backup(config: &Config, destination: &Destination) -> anyhow::Result<Manifest> {
    let programs = config.backup.pg_bin.as_deref();
    let (mut connection, server) = open(&config.postgres).await?;
    refuse_without_replication(&server)?;
    let segment_bytes = segment_bytes(&mut connection).await?;
    let draft = Draft::begin(destination, Kind::Base)?;
    tool(&config.postgres, programs, "pg_basebackup")?
        .args([
            "--format=tar",
            "--compress=client-gzip:3",
            "--wal-method=stream",
            "--checkpoint=fast",
        ])
        .args(["--manifest-checksums=SHA256", "--no-password", "--pgdata"])
        .arg(draft.folder())
        .run()
        .await
        .with_context(|| format!("base backup of the server at {}", config.postgres.url))?;
    let own = fs::read(draft.path(OWN_MANIFEST)).context("reading pg_basebackup's manifest")?;
    let content = content(&own, server.postgres_version, segment_bytes)?;
    let tool = tool::version(programs, "pg_basebackup").await?;
    draft.seal(Content::Base(content), tool).await
}

/// Refuses the embedded server: it lacks the replication protocol that base backups and WAL archiving need.
pub(crate) fn refuse_without_replication(server: &Server) -> anyhow::Result<()> {
    ensure!(
        !server.single_session,
        "base backups and WAL archiving need replication, which the embedded server lacks; run `backup-runner backup \
         postgres`, or use a native PostgreSQL server"
    );
    Ok(())
}

async fn segment_bytes(connection: &mut AsyncPgConnection) -> anyhow::Result<u64> {
    let text = queries::wal_segment_bytes(connection)
        .await
        .explained("reading the size of WAL segments")?;
    text.parse().context("reading the size of WAL segments")
}

/// Part of pg_basebackup's manifest.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct OwnManifest {
    #[serde(rename = "System-Identifier")]
    system_identifier: serde_json::Number,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<WalRange>,
}

#[derive(Deserialize)]
struct WalRange {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start_lsn: String,
    #[serde(rename = "End-LSN")]
    end_lsn: String,
}

fn content(own: &[u8], server_version: String, segment_bytes: u64) -> anyhow::Result<BaseContent> {
    let own: OwnManifest = serde_json::from_slice(own).context("reading pg_basebackup's manifest")?;
    let range = own
        .wal_ranges
        .into_iter()
        .next()
        .ok_or_else(|| anyhow!("pg_basebackup's manifest has no WAL range"))?;
    let start_segment = segment::containing(range.timeline, &range.start_lsn, segment_bytes)?;
    Ok(BaseContent {
        server_version,
        system_identifier: own.system_identifier.to_string(),
        timeline: range.timeline,
        start_lsn: range.start_lsn,
        end_lsn: range.end_lsn,
        start_segment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wal_range_is_read_from_pg_basebackups_manifest() {
        let own = br#"{ "PostgreSQL-Backup-Manifest-Version": 2, "System-Identifier": 7575757575757575757, "Files": [],
            "WAL-Ranges": [{ "Timeline": 1, "Start-LSN": "1/A000028", "End-LSN": "1/A000120" }],
            "Manifest-Checksum": "x" }"#;
        let content = content(own, "17.11".into(), 16 << 20).unwrap();
        assert_eq!(content.system_identifier, "7575757575757575757");
        assert_eq!(content.start_segment, "00000001000000010000000A");
    }
}
