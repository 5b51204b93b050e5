//! The command line.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Subcommand, ValueEnum};

use crate::manifest::Kind;
use crate::postgres::lsn::Lsn;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Makes, verifies and prunes backups on the schedule of section `[backup]`, and archives WAL.
    Run,
    /// Makes a backup.
    Backup {
        /// Store to back up; `all` is redis, then postgres.
        #[arg(value_enum)]
        what: What,
    },
    /// Lists the backups, oldest first.
    List {
        /// Prints a JSON array of manifests.
        #[arg(long)]
        json: bool,
    },
    /// Checks backups: the checksums of all files, and each file with the program that restores it.
    Verify {
        /// Backups to check, as NAME or KIND/NAME; without one, the newest of each kind.
        #[arg(value_name = "NAME", conflicts_with = "all")]
        names: Vec<String>,
        /// Checks every backup.
        #[arg(long)]
        all: bool,
    },
    /// Restores a backup into an empty store.
    Restore {
        #[command(subcommand)]
        what: Restore,
    },
    /// Removes the backups that `[backup]` does not keep, and old remains of interrupted ones.
    Prune {
        /// Lists what would be removed, and removes nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Store to back up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum What {
    /// Redis, as an RDB.
    Redis,
    /// The database, as a logical dump.
    Postgres,
    /// The whole PostgreSQL server, for point-in-time recovery.
    Base,
    /// Redis, then the database: the streams of the RDB still contain what the dump may lack.
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
    /// Restores into the Redis of `redis.url`, which must have no keys.
    Redis {
        /// The backup's name, or `latest`.
        name: String,
    },
    /// Restores into the database of `postgres.url`, which must have no tables.
    Postgres {
        /// The backup's name, or `latest`.
        name: String,
    },
    /// Restores into a new data directory for a PostgreSQL server.
    Base {
        /// The backup's name, or `latest`.
        name: String,
        /// Data directory to create; must be empty or absent.
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Time up to which to recover, such as 2026-11-23T05:00:00Z; the end of the archived WAL without it.
        #[arg(long, value_name = "TIME")]
        target_time: Option<DateTime<Utc>>,
        /// WAL position up to which to recover, such as 16/B374D848.
        #[arg(long, value_name = "LSN", conflicts_with = "target_time")]
        target_lsn: Option<Lsn>,
    },
}
