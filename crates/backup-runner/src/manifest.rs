//! What a backup is: its name, its files with checksums, and what they hold. Written last, so that what has no manifest is
//! no backup.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, anyhow, ensure};
use chrono::{DateTime, NaiveDateTime, Utc};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::redis::FILE;

/// The version of the manifest's form. A newer one is refused, not guessed at.
const FORMAT: u32 = 1;

/// The manifest's file.
pub(crate) const FILE_NAME: &str = "manifest.json";

/// What was backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Redis, as an RDB.
    Redis,
    /// A database, as a logical dump.
    Postgres,
    /// A PostgreSQL server's files.
    Base,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Redis, Self::Postgres, Self::Base];
    pub(crate) const NAMES: &[&str] = &["redis", "postgres", "base"];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Base => "base",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A backup's name: when it was begun, in UTC to the millisecond. Names sort by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Name(DateTime<Utc>);

const NAME_FORMAT: &str = "%Y%m%dT%H%M%S%.3fZ";

impl Name {
    /// The name of a backup begun at `time`.
    pub(crate) fn of(time: DateTime<Utc>) -> Self {
        let cut = DateTime::from_timestamp_millis(time.timestamp_millis());
        Self(cut.unwrap_or(time))
    }

    /// When it was begun.
    pub(crate) fn time(self) -> DateTime<Utc> {
        self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0.format(NAME_FORMAT).to_string())
    }
}

impl FromStr for Name {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let time = NaiveDateTime::parse_from_str(text, NAME_FORMAT)
            .ok()
            .map(|time| Self(time.and_utc()));
        // The form is one: whatever else the parser takes is another backup's or nobody's.
        time.filter(|name| name.to_string() == text)
            .ok_or_else(|| anyhow!("`{text}` is no name of a backup"))
    }
}

impl TryFrom<String> for Name {
    type Error = anyhow::Error;

    fn try_from(text: String) -> anyhow::Result<Self> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.to_string()
    }
}

/// Everything that is known of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) name: Name,
    pub(crate) started: DateTime<Utc>,
    pub(crate) finished: DateTime<Utc>,
    /// What made it: program and version.
    pub(crate) made_by: Vec<String>,
    pub(crate) files: Vec<File>,
    pub(crate) content: Content,
}

/// A file of a backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) size_bytes: u64,
    pub(crate) sha256: String,
}

/// What the files hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Content {
    Redis(RedisContent),
    Postgres(PostgresContent),
    Base(BaseContent),
}

/// What Redis held, and how safe it was there. The number of keys is the RDB's; streams and persistence are the server's
/// just before. Of a cluster: all masters together, sums and the worst state of any.
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
    /// The masters of a cluster, each with an RDB of its own. None: one server, whose RDB is [`FILE`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) masters: Vec<MasterContent>,
}

impl RedisContent {
    /// The files with its keys.
    pub(crate) fn rdbs(&self) -> Vec<&str> {
        if self.masters.is_empty() {
            return vec![FILE];
        }
        self.masters.iter().map(|master| master.file.as_str()).collect()
    }
}

/// One master of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MasterContent {
    /// Its RDB.
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

/// A stream and its entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamLength {
    pub(crate) stream: String,
    pub(crate) entries: u64,
}

/// The server's append-only file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AofState {
    pub(crate) enabled: bool,
    /// `appendfsync`; absent where this user may not ask.
    pub(crate) fsync: Option<String>,
    pub(crate) last_write_ok: bool,
    pub(crate) last_rewrite_ok: bool,
    pub(crate) rewrite_in_progress: bool,
    pub(crate) size_bytes: Option<i64>,
}

impl AofState {
    /// The state of several servers, as safe as the least safe of them.
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

/// Of two values of `appendfsync`.
fn least_safe(a: String, b: String) -> String {
    let safety = |fsync: &str| match fsync {
        "always" => 2,
        "everysec" => 1,
        _ => 0,
    };
    if safety(&a) <= safety(&b) { a } else { b }
}

/// What a database held in the moment of its dump.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostgresContent {
    pub(crate) server_version: String,
    pub(crate) timescale_version: String,
    pub(crate) edition: String,
    pub(crate) tables: Vec<TableTotal>,
    /// Roles that the dump grants something to.
    pub(crate) roles: Vec<String>,
}

/// A table by what two copies of it can be compared by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TableTotal {
    pub(crate) table: String,
    pub(crate) rows: i64,
    /// Sum of the volumes in lots, as exact decimal text.
    pub(crate) volume: Option<String>,
}

/// Where a server's files stand in its history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BaseContent {
    pub(crate) server_version: String,
    /// What tells this server's WAL from every other's.
    pub(crate) system_identifier: String,
    pub(crate) timeline: u32,
    pub(crate) start_lsn: String,
    pub(crate) end_lsn: String,
    /// The first WAL segment that a recovery from it needs.
    pub(crate) start_segment: String,
}

impl Content {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Redis(_) => Kind::Redis,
            Self::Postgres(_) => Kind::Postgres,
            Self::Base(_) => Kind::Base,
        }
    }

    /// What it holds, in a few words for a person.
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
            Self::Base(base) => format!("from WAL {}", base.start_lsn),
        }
    }
}

impl Manifest {
    pub(crate) fn kind(&self) -> Kind {
        self.content.kind()
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// The manifest as it is written: with the version of its form and a checksum of its own.
    pub(crate) fn to_json(&self) -> anyhow::Result<Vec<u8>> {
        let sealed = Sealed {
            format: FORMAT,
            sha256: self.sha256()?,
            manifest: self.clone(),
        };
        let mut json = serde_json::to_vec_pretty(&sealed).context("writing a manifest")?;
        json.push(b'\n');
        Ok(json)
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// When it has another form, or was changed after it was written.
    pub(crate) fn from_json(json: &[u8]) -> anyhow::Result<Self> {
        let Format { format } = serde_json::from_slice(json).context("not a manifest")?;
        ensure!(format == FORMAT, "has format {format}, this version reads {FORMAT}");
        let sealed: Sealed = serde_json::from_slice(json).context("not a manifest")?;
        ensure!(
            sealed.manifest.sha256()? == sealed.sha256,
            "was changed: its checksum is another"
        );
        Ok(sealed.manifest)
    }

    fn sha256(&self) -> anyhow::Result<String> {
        let json = serde_json::to_vec(self).context("writing a manifest")?;
        Ok(hex(&Sha256::digest(&json)))
    }
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    format: u32,
    sha256: String,
    manifest: Manifest,
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            // Writing to a String can't fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn example() -> Manifest {
        let started = DateTime::from_timestamp_millis(1_795_412_345_678).unwrap();
        Manifest {
            name: Name::of(started),
            started,
            finished: started + chrono::Duration::seconds(3),
            made_by: vec!["backup-runner 0.1.0".into(), "pg_dump (PostgreSQL) 17.11".into()],
            files: vec![File {
                path: "database.dump".into(),
                size_bytes: 12,
                sha256: hex(&[0xab; 32]),
            }],
            content: Content::Postgres(PostgresContent {
                server_version: "17.5".into(),
                timescale_version: "2.23.0".into(),
                edition: "community".into(),
                tables: vec![TableTotal {
                    table: "candles_1m".into(),
                    rows: 2_469,
                    volume: Some("123456789012345678901".into()),
                }],
                roles: vec!["warm_syncer".into()],
            }),
        }
    }

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let json = example().to_json().unwrap();
        assert_eq!(Manifest::from_json(&json).unwrap(), example());
    }

    /// As 0.1.0 wrote it, which knew no clusters.
    const WITHOUT_MASTERS: &str = r#"{"format":1,"sha256":"262bb0340e240df20bbcb9872cb0f0119a4f1d59a033834650bf0a9846a17fe0","manifest":{
        "name":"20261124T224727.610Z","started":"2026-11-24T22:47:27.610489410Z","finished":"2026-11-24T22:47:27.843472071Z",
        "made_by":["backup-runner 0.1.0","redis-cli 7.0.15"],"files":[{"path":"dump.rdb","size_bytes":212,
        "sha256":"7c0d7d74c9986bb88df2cecc509d6749a37599f1d2c941283a677976c0e51728"}],"content":{"kind":"redis",
        "server_version":"7.0.15","role":"master","replication_offset":0,"keys":2,"keys_with_expiry":1,"functions":[],
        "partitions":1,"streams":[{"stream":"stream:ticks:0","entries":0},{"stream":"stream:candles:0","entries":0},
        {"stream":"stream:signals","entries":0},{"stream":"stream:repairs","entries":0},{"stream":"stream:rollups","entries":0},
        {"stream":"stream:backups","entries":0},{"stream":"stream:dead","entries":0}],"rdb_last_save":"2026-11-24T22:47:26Z",
        "aof":{"enabled":false,"fsync":"everysec","last_write_ok":true,"last_rewrite_ok":true,"rewrite_in_progress":false,
        "size_bytes":null}}}}"#;

    #[test]
    fn a_manifest_of_before_clusters_is_read() {
        let manifest = Manifest::from_json(WITHOUT_MASTERS.as_bytes()).unwrap();
        let Content::Redis(content) = manifest.content else {
            panic!("not of Redis")
        };
        assert_eq!(content.rdbs(), ["dump.rdb"]);
    }

    #[test]
    fn of_several_servers_the_least_safe_counts() {
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

    #[test]
    fn a_newer_form_is_refused() {
        let json = String::from_utf8(example().to_json().unwrap())
            .unwrap()
            .replace("\"format\": 1", "\"format\": 2");
        let error = Manifest::from_json(json.as_bytes()).unwrap_err();
        assert!(format!("{error:#}").contains("format 2"), "{error:#}");
    }

    #[test]
    fn names_sort_by_time_and_are_one_way_to_write_it() {
        let name = example().name;
        assert_eq!(name.to_string(), "20261123T053905.678Z");
        assert_eq!(name.to_string().parse::<Name>().unwrap(), name);
        for other in ["", "latest", "20261123T053905Z", "20261123T053905.6789Z", "../x"] {
            assert!(other.parse::<Name>().is_err(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_in_a_manifest_is_noticed_or_changes_nothing(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut json = example().to_json().unwrap();
            // The line break at the end carries nothing.
            let at = at.index(json.len() - 1);
            json[at] ^= 1_u8 << bit;
            // Times are read with `t` and `z` too.
            prop_assert!(Manifest::from_json(&json).map_or(true, |read| read == example()), "byte {at}");
        }

        #[test]
        fn names_order_as_text_as_they_do_in_time(a in 0_i64..4_000_000_000_000, b in 0_i64..4_000_000_000_000) {
            let name = |ms| Name::of(DateTime::from_timestamp_millis(ms).unwrap());
            prop_assert_eq!(name(a).cmp(&name(b)), name(a).to_string().cmp(&name(b).to_string()));
        }
    }
}
