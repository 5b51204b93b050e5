//! Configuration of hot-writer; its own part is the section `[hot]`.

use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};
use storage_core::config::Configuration;
use storage_core::config::redis::RedisConfig;
use storage_core::config::service::ServiceConfig;
use storage_core::config::stream::StreamConfig;
use storage_core::config::telemetry::TelemetryConfig;

/// Configuration of hot-writer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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
    const DEFAULTS: &'static [(&'static str, &'static str)] = &[("telemetry.metrics_listen", "127.0.0.1:9101")];
    const ZERO_ALLOWED: &'static [&'static str] = &["hot.close_grace"];
}

/// Section `[hot]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HotConfig {
    /// TTL of `tick:latest:*`.
    #[serde(with = "humantime_serde")]
    pub(crate) tick_ttl: Duration,
    /// Time for which a candle waits for late ticks after its end before it is closed; `0s` closes it at its end.
    #[serde(with = "humantime_serde")]
    pub(crate) close_grace: Duration,
    /// Time after the close for which a late tick amends its candle. A later tick has its minute computed again.
    #[serde(with = "humantime_serde")]
    pub(crate) amend_window: Duration,
    /// Minimum time for which a trade ID is remembered, in stream time.
    #[serde(with = "humantime_serde")]
    pub(crate) dedup_window: Duration,
    /// Maximum share of the time of Redis that writing open candles may cost, for all replicas and partitions together.
    #[serde(deserialize_with = "share")]
    pub(crate) write_share: f64,
    /// Age of open 1-minute candles that is aimed at; five times as much for larger timeframes. Beyond the budget
    /// 1-minute candles are written first, and larger ones that are older than that get a quarter of the writes.
    #[serde(with = "humantime_serde")]
    pub(crate) max_age: Duration,
    /// Maximum number of entries per read.
    pub(crate) batch_entries: usize,
    /// Time after which the lease of a replica that does not renew it expires.
    #[serde(with = "humantime_serde")]
    pub(crate) lease_ttl: Duration,
    /// Interval at which finished entries are trimmed.
    #[serde(with = "humantime_serde")]
    pub(crate) trim_interval: Duration,
    /// Time after which the unfinished signals of another replica are claimed.
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
            write_share: 0.1,
            max_age: Duration::from_millis(50),
            batch_entries: 5_000,
            lease_ttl: Duration::from_secs(5),
            trim_interval: Duration::from_secs(10),
            claim_after: Duration::from_secs(10),
        }
    }
}

/// Deserializes a share greater than 0 and at most 1.
fn share<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(deserializer)?;
    if share > 0.0 && share <= 1.0 {
        Ok(share)
    } else {
        Err(D::Error::custom(format!(
            "{share} is not a share greater than 0 and at most 1"
        )))
    }
}
