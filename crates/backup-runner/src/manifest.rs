//! The manifest of a backup: its name, its files with checksums, and their contents. It is written last, so a folder
//! without a manifest is not a backup.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, anyhow, ensure};
use chrono::{DateTime, NaiveDateTime, Utc};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::content::Content;

/// Version of the manifest's format. Other versions are refused.
const FORMAT: u32 = 1;

/// Name of the manifest's file.
pub(crate) const FILE_NAME: &str = "manifest.json";

/// Kind of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// RDB of Redis.
    Redis,
    /// Logical dump of the database.
    Postgres,
    /// Base backup: all files of the PostgreSQL server.
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

/// Name of a backup: its start in UTC, in milliseconds. Names sort by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Name(DateTime<Utc>);

const NAME_FORMAT: &str = "%Y%m%dT%H%M%S%.3fZ";

impl Name {
    /// Returns the name of a backup that began at `time`.
    pub(crate) fn of(time: DateTime<Utc>) -> Self {
        let cut = DateTime::from_timestamp_millis(time.timestamp_millis());
        Self(cut.unwrap_or(time))
    }

    /// Returns the start of the backup.
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
        // chrono accepts other spellings of the same time; only the one that `Display` writes is a name.
        time.filter(|name| name.to_string() == text)
            .ok_or_else(|| anyhow!("`{text}` is not the name of a backup, such as 20261123T053905.678Z"))
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

/// Description of a backup.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) name: Name,
    pub(crate) started: DateTime<Utc>,
    pub(crate) finished: DateTime<Utc>,
    /// Programs that made the backup, with their versions.
    pub(crate) made_by: Vec<String>,
    pub(crate) files: Vec<File>,
    pub(crate) content: Content,
}

/// Size and checksum of a backup's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) size_bytes: u64,
    pub(crate) sha256: String,
}

impl Manifest {
    pub(crate) fn kind(&self) -> Kind {
        match self.content {
            Content::Redis(_) => Kind::Redis,
            Content::Postgres(_) => Kind::Postgres,
            Content::Base(_) => Kind::Base,
        }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size_bytes).sum()
    }

    /// Serializes the manifest with the version of its format and a checksum.
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

    /// Parses a manifest.
    ///
    /// # Errors
    /// The damage, as the end of a sentence that begins with "the manifest".
    pub(crate) fn from_json(json: &[u8]) -> anyhow::Result<Self> {
        let Format { format } = serde_json::from_slice(json).context("can't be parsed")?;
        ensure!(
            format == FORMAT,
            "has format {format}, but this version of backup-runner reads format {FORMAT}"
        );
        let sealed: Sealed = serde_json::from_slice(json).context("can't be parsed")?;
        ensure!(
            sealed.manifest.sha256()? == sealed.sha256,
            "was changed after it was written: its checksum does not match"
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

/// Formats bytes as lower-case hexadecimal digits.
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
    use crate::content::{PostgresContent, TableTotal};

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

    /// Manifest of version 0.1.0, which did not support clusters.
    const WITHOUT_MASTERS: &str = r#"
        {"format":1,"sha256":"262bb0340e240df20bbcb9872cb0f0119a4f1d59a033834650bf0a9846a17fe0",
        "manifest":{"name":"20261124T224727.610Z","started":"2026-11-24T22:47:27.610489410Z",
        "finished":"2026-11-24T22:47:27.843472071Z","made_by":["backup-runner 0.1.0","redis-cli 7.0.15"],
        "files":[{"path":"dump.rdb","size_bytes":212,
        "sha256":"7c0d7d74c9986bb88df2cecc509d6749a37599f1d2c941283a677976c0e51728"}],"content":{"kind":"redis",
        "server_version":"7.0.15","role":"master","replication_offset":0,"keys":2,"keys_with_expiry":1,
        "functions":[],"partitions":1,"streams":[{"stream":"stream:ticks:0","entries":0},
        {"stream":"stream:candles:0","entries":0},{"stream":"stream:signals","entries":0},
        {"stream":"stream:repairs","entries":0},{"stream":"stream:rollups","entries":0},{"stream":"stream:backups",
        "entries":0},{"stream":"stream:dead","entries":0}],"rdb_last_save":"2026-11-24T22:47:26Z",
        "aof":{"enabled":false,"fsync":"everysec","last_write_ok":true,"last_rewrite_ok":true,
        "rewrite_in_progress":false,"size_bytes":null}}}}"#;

    #[test]
    fn a_manifest_without_masters_is_read() {
        let manifest = Manifest::from_json(WITHOUT_MASTERS.as_bytes()).unwrap();
        let Content::Redis(content) = manifest.content else {
            panic!("not of Redis")
        };
        assert_eq!(content.rdbs(), ["dump.rdb"]);
    }

    #[test]
    fn a_newer_format_is_refused() {
        let json = String::from_utf8(example().to_json().unwrap())
            .unwrap()
            .replace("\"format\": 1", "\"format\": 2");
        let error = Manifest::from_json(json.as_bytes()).unwrap_err();
        assert!(format!("{error:#}").contains("format 2"), "{error:#}");
    }

    #[test]
    fn names_sort_by_time_and_have_one_spelling() {
        let name = example().name;
        assert_eq!(name.to_string(), "20261123T053905.678Z");
        assert_eq!(name.to_string().parse::<Name>().unwrap(), name);
        for other in ["", "latest", "20261123T053905Z", "20261123T053905.6789Z", "../x"] {
            assert!(other.parse::<Name>().is_err(), "{other}");
        }
    }

    proptest! {
        #[test]
        fn a_flipped_bit_is_noticed_or_changes_nothing(at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let mut json = example().to_json().unwrap();
            // A change of the final line break changes nothing.
            let at = at.index(json.len() - 1);
            json[at] ^= 1_u8 << bit;
            // chrono accepts a lower-case `t` and `z` in times.
            prop_assert!(Manifest::from_json(&json).map_or(true, |read| read == example()), "byte {at}");
        }

        #[test]
        fn names_sort_as_text_in_order_of_time(a in 0_i64..4_000_000_000_000, b in 0_i64..4_000_000_000_000) {
            let name = |ms| Name::of(DateTime::from_timestamp_millis(ms).unwrap());
            prop_assert_eq!(name(a).cmp(&name(b)), name(a).to_string().cmp(&name(b).to_string()));
        }
    }
}
