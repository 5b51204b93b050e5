//! Configuration of warm-syncer; its own part is the section `[warm]`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage_core::config::Configuration;
use storage_core::config::postgres::PostgresConfig;
use storage_core::config::redis::RedisConfig;
use storage_core::config::service::ServiceConfig;
use storage_core::config::stream::StreamConfig;
use storage_core::config::telemetry::TelemetryConfig;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) redis: RedisConfig,
    pub(crate) postgres: PostgresConfig,
    pub(crate) telemetry: TelemetryConfig,
    pub(crate) stream: StreamConfig,
    pub(crate) service: ServiceConfig,
    pub(crate) warm: WarmConfig,
}

impl Configuration for Config {
    const FOREIGN_SECTIONS: &'static [&'static str] = &["hot", "admin", "backup"];
    const DEFAULTS: &'static [(&'static str, &'static str)] = &[("telemetry.metrics_listen", "127.0.0.1:9102")];
    const ZERO_ALLOWED: &'static [&'static str] = &["warm.batch_wait"];
}

/// Section `[warm]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WarmConfig {
    /// Maximum number of candles, signals or dead letters in a transaction.
    pub(crate) batch_rows: usize,
    /// Maximum number of ticks in a transaction.
    pub(crate) tick_batch_rows: usize,
    /// Time for which a batch that is not full waits for more entries; with `0s` a batch does not wait.
    #[serde(with = "humantime_serde")]
    pub(crate) batch_wait: Duration,
    /// Time after which the lease of a replica that does not renew it expires.
    #[serde(with = "humantime_serde")]
    pub(crate) lease_ttl: Duration,
    /// Age from which changed minutes are announced on `stream:rollups`, because the refresh policies of the rollups no
    /// longer see them. It is at most the policies' `start_offset` (4 days) less the largest bucket (1 day), which must
    /// lie within their window.
    #[serde(with = "humantime_serde")]
    pub(crate) refresh_window: Duration,
    /// Time without a heartbeat after which a feed was not connected.
    #[serde(with = "humantime_serde")]
    pub(crate) feed_timeout: Duration,
}

impl Default for WarmConfig {
    fn default() -> Self {
        Self {
            batch_rows: 10_000,
            tick_batch_rows: 20_000,
            batch_wait: Duration::from_millis(200),
            lease_ttl: Duration::from_secs(5),
            refresh_window: Duration::from_secs(2 * 86_400),
            feed_timeout: Duration::from_secs(30),
        }
    }
}
