//! Configuration of backup-runner.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage_core::config::postgres::PostgresConfig;
use storage_core::config::redis::RedisConfig;
use storage_core::config::service::ServiceConfig;
use storage_core::config::telemetry::TelemetryConfig;
use storage_core::config::{Configuration, KeyFlag};

use crate::manifest::Kind;
use crate::retention::Keep;

const HOUR: Duration = Duration::from_secs(3_600);

/// All sections of the configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) redis: RedisConfig,
    pub(crate) postgres: PostgresConfig,
    pub(crate) telemetry: TelemetryConfig,
    pub(crate) service: ServiceConfig,
    pub(crate) backup: BackupConfig,
}

impl Configuration for Config {
    const FOREIGN_SECTIONS: &'static [&'static str] = &["hot", "warm", "admin"];
    // Counting all rows may take long.
    const DEFAULTS: &'static [(&'static str, &'static str)] = &[
        ("telemetry.metrics_listen", "127.0.0.1:9104"),
        ("postgres.statement_timeout", "0s"),
    ];
    const ZERO_ALLOWED: &'static [&'static str] = &[
        "backup.redis_every",
        "backup.postgres_every",
        "backup.base_every",
        "backup.verify_every",
        "backup.keep_daily",
        "backup.keep_weekly",
        "backup.leftovers_after",
    ];
    const FLAGS: &'static [KeyFlag] = &[KeyFlag {
        name: "folder",
        key: "backup.folder",
        value_name: "DIR",
        help: "Folder that holds the backups; overrides `backup.folder`",
    }];
}

/// Section `[backup]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackupConfig {
    /// Folder of the backups; created if missing.
    pub(crate) folder: PathBuf,
    /// Time between two backups of Redis by `run`; `0s`: none.
    #[serde(with = "humantime_serde")]
    pub(crate) redis_every: Duration,
    /// Time between two logical backups of the database by `run`; `0s`: none.
    #[serde(with = "humantime_serde")]
    pub(crate) postgres_every: Duration,
    /// Time between two base backups of the PostgreSQL server by `run`; `0s`: none.
    #[serde(with = "humantime_serde")]
    pub(crate) base_every: Duration,
    /// Time between two verifications of all backups by `run`; `0s`: none.
    #[serde(with = "humantime_serde")]
    pub(crate) verify_every: Duration,
    /// `true` if `run` archives the WAL of the PostgreSQL server in the folder, for point-in-time recovery.
    pub(crate) wal: bool,
    /// Replication slot that keeps WAL on the server until it is archived: up to `max_slot_wal_keep_size` of the
    /// server, or until its disk is full.
    pub(crate) wal_slot: String,
    /// Number of newest backups of each kind that stay.
    pub(crate) keep_last: u32,
    /// Number of newest days with a backup of which the last backup stays; `0`: none.
    pub(crate) keep_daily: u32,
    /// Number of newest weeks with a backup of which the last backup stays; `0`: none.
    pub(crate) keep_weekly: u32,
    /// Age after which the files of an interrupted backup are removed; `0s`: at the next prune.
    #[serde(with = "humantime_serde")]
    pub(crate) leftovers_after: Duration,
    /// Folder of the programs of PostgreSQL (pg_dump and others) of the major version of the server; unset: `PATH`.
    pub(crate) pg_bin: Option<PathBuf>,
    /// Folder of redis-cli, redis-check-rdb and redis-server, or of Valkey's programs, of the server's version or
    /// newer; unset: `PATH`.
    pub(crate) redis_bin: Option<PathBuf>,
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self {
            folder: PathBuf::from("backups"),
            redis_every: 6 * HOUR,
            postgres_every: 24 * HOUR,
            base_every: Duration::ZERO,
            verify_every: 24 * HOUR,
            wal: false,
            wal_slot: "backup_runner".to_owned(),
            keep_last: 8,
            keep_daily: 14,
            keep_weekly: 8,
            leftovers_after: 24 * HOUR,
            pg_bin: None,
            redis_bin: None,
        }
    }
}

impl BackupConfig {
    /// Returns the time between two scheduled backups of `kind`; `None` if they are not scheduled.
    pub(crate) fn every(&self, kind: Kind) -> Option<Duration> {
        let every = match kind {
            Kind::Redis => self.redis_every,
            Kind::Postgres => self.postgres_every,
            Kind::Base => self.base_every,
        };
        (!every.is_zero()).then_some(every)
    }

    pub(crate) fn keep(&self) -> Keep {
        Keep {
            last: self.keep_last,
            daily: self.keep_daily,
            weekly: self.keep_weekly,
        }
    }
}
