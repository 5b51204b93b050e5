//! The last backup of each kind, which aggregator-admin keeps in `stream:backups:last` because `stream:backups` is
//! trimmed.

use std::collections::BTreeMap;

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use super::codec::backups::{BackupAnnouncement, decode_entry, entry_fields};
use super::keys;
use crate::domain::entry::Entry;
use crate::domain::stream_id::StreamId;

/// Stores `backup` as the last of its kind.
pub async fn store_last(conn: &mut impl ConnectionLike, backup: &BackupAnnouncement) -> RedisResult<()> {
    let fields: BTreeMap<_, _> = entry_fields(backup).into_iter().collect();
    let json = serde_json::json!(fields).to_string();
    cmd("HSET")
        .arg(keys::last_backups())
        .arg(&backup.kind)
        .arg(json)
        .query_async(conn)
        .await
}

/// Reads the last backup of each kind, ordered by kind.
pub async fn last(conn: &mut impl ConnectionLike) -> RedisResult<Vec<BackupAnnouncement>> {
    let by_kind: BTreeMap<String, String> = cmd("HGETALL").arg(keys::last_backups()).query_async(conn).await?;
    Ok(by_kind.values().filter_map(|json| read(json)).collect())
}

fn read(json: &str) -> Option<BackupAnnouncement> {
    let fields: BTreeMap<String, String> = serde_json::from_str(json).ok()?;
    decode_entry(&Entry::new(StreamId::START, fields)).ok()
}
