//! Backups: what backup-runner announces on `stream:backups` once a backup's manifest is there.

use crate::domain::entry::Entry;
use crate::domain::rejection::Rejection;
use crate::redis::stream::Fields;

/// A finished backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupAnnouncement {
    /// The backup's name, unique within its destination.
    pub name: String,
    /// What was backed up: `redis`, `postgres` or `base`.
    pub kind: String,
    /// When it was begun, in µs since 1970.
    pub started_us: i64,
    /// How long it took, in ms.
    pub took_ms: u64,
    /// The size of its files in bytes.
    pub size_bytes: u64,
}

/// The entry's fields.
pub fn entry_fields(backup: &BackupAnnouncement) -> Fields {
    vec![
        ("name", backup.name.clone()),
        ("kind", backup.kind.clone()),
        ("started_us", backup.started_us.to_string()),
        ("took_ms", backup.took_ms.to_string()),
        ("size_bytes", backup.size_bytes.to_string()),
    ]
}

/// Reads an entry.
///
/// # Errors
/// When a field is missing or is not what [`entry_fields`] writes.
pub fn decode_entry(entry: &Entry) -> Result<BackupAnnouncement, Rejection> {
    Ok(BackupAnnouncement {
        name: entry.parsed("name")?,
        kind: entry.parsed("kind")?,
        started_us: entry.parsed("started_us")?,
        took_ms: entry.parsed("took_ms")?,
        size_bytes: entry.parsed("size_bytes")?,
    })
}
