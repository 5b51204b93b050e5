//! Configuration of hot-writer.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage_core::config::Configuration;
use storage_core::config::redis::RedisConfig;
use storage_core::config::service::ServiceConfig;
use storage_core::config::stream::StreamConfig;
use storage_core::config::telemetry::TelemetryConfig;

/// Everything that can be configured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub(crate) redis: RedisConfig,
    pub(crate) telemetry: TelemetryConfig,
    pub(crate) service: ServiceConfig,
    pub(crate) stream: StreamConfig,
    pub(crate) hot: HotConfig,
}

impl Configuration for Config {
    const FOREIGN_SECTIONS: &'static [&'static str] = &["warm", "admin", "backup"];
    const ZERO_ALLOWED: &'static [&'static str] = &["hot.close_grace"];
}

impl Default for Config {
    fn default() -> Self {
        Self {
            redis: RedisConfig::default(),
            telemetry: TelemetryConfig::listening_on(9101),
            service: ServiceConfig::default(),
            stream: StreamConfig::default(),
            hot: HotConfig::default(),
        }
    }
}

/// Section `[hot]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HotConfig {
    /// How long `tick:latest:*` stays after the last tick.
    #[serde(with = "humantime_serde")]
    pub(crate) tick_ttl: Duration,
    /// How long a minute waits for late ticks before it is closed; `0s`: it is closed as soon as it has ended.
    #[serde(with = "humantime_serde")]
    pub(crate) close_grace: Duration,
    /// How far behind the newest event a tick may be and still amend its minute at once; an older one has it computed again.
    #[serde(with = "humantime_serde")]
    pub(crate) amend_window: Duration,
    /// For how long a trade ID is remembered, in the time of the stream.
    #[serde(with = "humantime_serde")]
    pub(crate) dedup_window: Duration,
    /// The most entries in a batch.
    pub(crate) batch_entries: usize,
    /// How long a copy that gave no sign of life keeps its partitions.
    #[serde(with = "humantime_serde")]
    pub(crate) lease_ttl: Duration,
    /// How often finished entries are trimmed.
    #[serde(with = "humantime_serde")]
    pub(crate) trim_interval: Duration,
    /// After how long another copy's unfinished signals are taken over.
    #[serde(with = "humantime_serde")]
    pub(crate) claim_after: Duration,
}

impl Default for HotConfig {
    fn default() -> Self {
        Self {
            tick_ttl: Duration::from_secs(60 * 60),
            close_grace: Duration::from_secs(2),
            amend_window: Duration::from_secs(10 * 60),
            dedup_window: Duration::from_secs(10 * 60),
            batch_entries: 5_000,
            lease_ttl: Duration::from_secs(5),
            trim_interval: Duration::from_secs(10),
            claim_after: Duration::from_secs(10),
        }
    }
}
