//! Entries of `stream:backups`, which backup-runner announces after it has written the manifest of a backup.

use crate::domain::entry::Entry;
use crate::domain::entry::Fields;
use crate::domain::rejection::Rejection;

/// A finished backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupAnnouncement {
    /// Name of the backup, unique within its destination.
    pub name: String,
    /// Kind of the backup: `redis`, `postgres` or `base`.
    pub kind: String,
    /// Start of the backup in µs since 1970.
    pub started_us: i64,
    /// Duration of the backup in ms.
    pub took_ms: u64,
    /// Size of its files in bytes.
    pub size_bytes: u64,
}

/// Encodes an entry.
pub fn entry_fields(backup: &BackupAnnouncement) -> Fields {
    vec![
        ("name", backup.name.clone()),
        ("kind", backup.kind.clone()),
        ("started_us", backup.started_us.to_string()),
        ("took_ms", backup.took_ms.to_string()),
        ("size_bytes", backup.size_bytes.to_string()),
    ]
}

/// Decodes an entry.
pub fn decode_entry(entry: &Entry) -> Result<BackupAnnouncement, Rejection> {
    Ok(BackupAnnouncement {
        name: entry.parsed("name")?,
        kind: entry.parsed("kind")?,
        started_us: entry.parsed("started_us")?,
        took_ms: entry.parsed("took_ms")?,
        size_bytes: entry.parsed("size_bytes")?,
    })
}
