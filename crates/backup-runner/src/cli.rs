//! The command line.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Subcommand, ValueEnum};

use crate::manifest::Kind;
use crate::postgres::lsn::Lsn;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Makes backups on the schedule of section `[backup]`, verifies and prunes them, archives WAL.
    Run,
    /// Makes a backup now.
    Backup {
        /// What to back up; `all` is redis, then postgres.
        #[arg(value_enum)]
        what: What,
    },
    /// Shows the backups that are there, oldest first.
    List {
        /// As a JSON array of manifests.
        #[arg(long)]
        json: bool,
    },
    /// Checks that backups are whole: checksums of all files, and each file by the tool that reads it.
    Verify {
        /// Backups to check: NAME or KIND/NAME; the newest of each kind where none is given.
        #[arg(value_name = "NAME", conflicts_with = "all")]
        names: Vec<String>,
        /// Checks every backup.
        #[arg(long)]
        all: bool,
    },
    /// Brings a backup back, into a store that is empty.
    Restore {
        #[command(subcommand)]
        what: Restore,
    },
    /// Removes the backups that `[backup]` says not to keep, and old leftovers of interrupted ones.
    Prune {
        /// Only says what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
}

/// What to back up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Redis, as an RDB.
    Redis,
    /// The database, as a logical dump.
    Postgres,
    /// The whole PostgreSQL server, for point-in-time recovery.
    Base,
    /// Redis, then the database: what the dump may lack is still in the streams of the RDB then.
    All,
}

impl What {
    pub(crate) fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Redis => &[Kind::Redis],
            Self::Postgres => &[Kind::Postgres],
            Self::Base => &[Kind::Base],
            // Every group repeats what it has not finished, and repeating changes nothing. So the streams must not be
            // newer than the database, else what was acknowledged in between would be in neither.
            Self::All => &[Kind::Redis, Kind::Postgres],
        }
    }
}

#[derive(Subcommand)]
pub(crate) enum Restore {
    /// Into the Redis of `redis.url`, which must hold no keys.
    Redis {
        /// The backup's name, or `latest`.
        name: String,
    },
    /// Into the database of `postgres.url`, which must hold no tables.
    Postgres {
        /// The backup's name, or `latest`.
        name: String,
    },
    /// Into a new data directory for a PostgreSQL server.
    Base {
        /// The backup's name, or `latest`.
        name: String,
        /// Data directory to make; must be empty or absent.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Recovers up to this moment, not to the end of the archived WAL: 2026-11-23T05:00:00Z.
        #[arg(long, value_name = "TIME")]
        target_time: Option<DateTime<Utc>>,
        /// Recovers through the record at this position in the WAL: 16/B374D848.
        #[arg(long, value_name = "LSN", conflicts_with = "target_time")]
        target_lsn: Option<Lsn>,
    },
}
