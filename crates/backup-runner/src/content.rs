//! Contents of a backup as its manifest describes them, by kind.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::redis::FILE;

/// Contents of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Content {
    Redis(RedisContent),
    Postgres(PostgresContent),
    Base(BaseContent),
}

/// Contents of Redis and the state of its persistence. Keys are counted in the RDB; streams and persistence are read
/// from the server just before. For a cluster: sums over the masters, and the worst state of any.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RedisContent {
    pub(crate) server_version: String,
    pub(crate) role: String,
    pub(crate) replication_offset: i64,
    pub(crate) keys: u64,
    pub(crate) keys_with_expiry: u64,
    /// Names of the function libraries.
    pub(crate) functions: Vec<String>,
    pub(crate) partitions: Option<u16>,
    pub(crate) streams: Vec<StreamLength>,
    pub(crate) rdb_last_save: Option<DateTime<Utc>>,
    pub(crate) aof: AofState,
    /// Masters of a cluster, each with its RDB. Empty for one server, whose RDB is [`FILE`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) masters: Vec<MasterContent>,
}

impl RedisContent {
    /// Returns the names of the RDB files.
    pub(crate) fn rdbs(&self) -> Vec<&str> {
        if self.masters.is_empty() {
            return vec![FILE];
        }
        self.masters.iter().map(|master| master.file.as_str()).collect()
    }
}

/// Contents of one master of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MasterContent {
    /// Name of the RDB file.
    pub(crate) file: String,
    /// Host and port.
    pub(crate) address: String,
    pub(crate) server_version: String,
    pub(crate) replication_offset: i64,
    pub(crate) keys: u64,
    pub(crate) keys_with_expiry: u64,
    pub(crate) rdb_last_save: Option<DateTime<Utc>>,
    pub(crate) aof: AofState,
}

/// Number of entries of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamLength {
    pub(crate) stream: String,
    pub(crate) entries: u64,
}

/// State of the server's append-only file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AofState {
    pub(crate) enabled: bool,
    /// `appendfsync`; absent if the Redis user may not run CONFIG GET.
    pub(crate) fsync: Option<String>,
    pub(crate) last_write_ok: bool,
    pub(crate) last_rewrite_ok: bool,
    pub(crate) rewrite_in_progress: bool,
    pub(crate) size_bytes: Option<i64>,
}

impl AofState {
    /// Combines the states of several servers: the least safe value of each field.
    pub(crate) fn worst_of<'a>(states: impl Iterator<Item = &'a Self>) -> Self {
        let worse = |a: Self, b: Self| Self {
            enabled: a.enabled && b.enabled,
            fsync: a.fsync.zip(b.fsync).map(|(a, b)| least_safe(a, b)),
            last_write_ok: a.last_write_ok && b.last_write_ok,
            last_rewrite_ok: a.last_rewrite_ok && b.last_rewrite_ok,
            rewrite_in_progress: a.rewrite_in_progress || b.rewrite_in_progress,
            size_bytes: a.size_bytes.zip(b.size_bytes).map(|(a, b)| a + b),
        };
        states.cloned().reduce(worse).unwrap_or_default()
    }
}

/// Returns the less safe of two values of `appendfsync`.
fn least_safe(a: String, b: String) -> String {
    let safety = |fsync: &str| match fsync {
        "always" => 2,
        "everysec" => 1,
        _ => 0,
    };
    if safety(&a) <= safety(&b) { a } else { b }
}

/// Contents of a database at the time of its dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostgresContent {
    pub(crate) server_version: String,
    pub(crate) timescale_version: String,
    pub(crate) edition: String,
    pub(crate) tables: Vec<TableTotal>,
    /// Roles that own objects of the dump or have privileges on them.
    pub(crate) roles: Vec<String>,
}

/// Totals by which a restored table is compared with the original.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TableTotal {
    pub(crate) table: String,
    pub(crate) rows: i64,
    /// Sum of the volumes in lots, as decimal text.
    pub(crate) volume: Option<String>,
}

/// Position of a base backup in the server's WAL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BaseContent {
    pub(crate) server_version: String,
    /// Identifies the server whose WAL belongs to this backup.
    pub(crate) system_identifier: String,
    pub(crate) timeline: u32,
    pub(crate) start_lsn: String,
    pub(crate) end_lsn: String,
    /// First WAL segment that a recovery needs.
    pub(crate) start_segment: String,
}

impl Content {
    /// Summarizes the contents in a few words for an operator.
    pub(crate) fn summary(&self) -> String {
        match self {
            Self::Redis(redis) => {
                let entries: u64 = redis.streams.iter().map(|stream| stream.entries).sum();
                format!("{} keys, {entries} stream entries", redis.keys)
            }
            Self::Postgres(postgres) => {
                let rows = |table: &str| {
                    postgres
                        .tables
                        .iter()
                        .find(|total| total.table == table)
                        .map_or(0, |total| total.rows)
                };
                format!(
                    "{} candles, {} ticks ({})",
                    rows("candles_1m"),
                    rows("ticks"),
                    postgres.edition
                )
            }
            Self::Base(base) => format!("starts at WAL position {}", base.start_lsn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_several_servers_is_that_of_the_least_safe() {
        let safe = AofState {
            enabled: true,
            fsync: Some("always".into()),
            last_write_ok: true,
            last_rewrite_ok: true,
            rewrite_in_progress: false,
            size_bytes: Some(5),
        };
        let less_safe = AofState {
            fsync: Some("everysec".into()),
            last_write_ok: false,
            ..safe.clone()
        };
        let together = AofState::worst_of([&safe, &less_safe, &safe].into_iter());
        let expected = AofState {
            size_bytes: Some(15),
            ..less_safe
        };
        assert_eq!(together, expected);
    }
}
