//! The command line.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Subcommand, ValueEnum};

use crate::manifest::Kind;
use crate::postgres::lsn::Lsn;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Runs the worker until SIGTERM: makes backups on schedule, verifies and prunes them, archives WAL
    Run,
    /// Makes a backup now
    Backup {
        /// Store to back up; `all` is redis, then postgres
        #[arg(value_enum)]
        what: BackupTarget,
    },
    /// Lists the backups, oldest first
    List {
        /// Prints a JSON array of manifests
        #[arg(long)]
        json: bool,
    },
    /// Verifies backups: checksums of all files, and each file by the tool that reads it
    Verify {
        /// Backups to verify: NAME or KIND/NAME [default: the newest of each kind]
        #[arg(value_name = "NAME", conflicts_with = "all")]
        names: Vec<String>,
        /// Verifies every backup
        #[arg(long)]
        all: bool,
    },
    /// Restores a backup into an empty store
    Restore {
        #[command(subcommand)]
        what: Restore,
    },
    /// Removes backups by the retention of section `[backup]`, and old files of interrupted ones
    Prune {
        /// Prints the backups that would be removed, and removes none
        #[arg(long)]
        dry_run: bool,
    },
}

/// Store to back up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackupTarget {
    /// Redis, as an RDB.
    Redis,
    /// The database, as a logical dump.
    Postgres,
    /// The whole PostgreSQL server, for point-in-time recovery.
    Base,
    /// Redis, then the database: entries that the dump lacks are in the streams of the RDB
    All,
}

impl BackupTarget {
    pub(crate) fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Redis => &[Kind::Redis],
            Self::Postgres => &[Kind::Postgres],
            Self::Base => &[Kind::Base],
            // A group repeats the entries that it has not finished, and repeating changes nothing. So the streams must
            // not be newer than the database: an entry that was acknowledged in between would be in neither.
            Self::All => &[Kind::Redis, Kind::Postgres],
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum Restore {
    /// Restores into the Redis of `redis.url`, which must hold no keys
    Redis {
        /// Name of the backup, or `latest`
        name: String,
    },
    /// Restores into the database of `postgres.url`, which must hold no tables
    Postgres {
        /// Name of the backup, or `latest`
        name: String,
    },
    /// Restores a new data directory of a PostgreSQL server
    Base {
        /// Name of the backup, or `latest`
        name: String,
        /// Data directory to create; must be empty or absent
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Recovers up to this time, not to the end of the archived WAL: 2026-11-23T05:00:00Z
        #[arg(long, value_name = "TIME")]
        target_time: Option<DateTime<Utc>>,
        /// Recovers through the record at this position of the WAL: 16/B374D848
        #[arg(long, value_name = "LSN", conflicts_with = "target_time")]
        target_lsn: Option<Lsn>,
    },
}
