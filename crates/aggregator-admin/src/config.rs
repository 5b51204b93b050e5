//! Configuration of aggregator-admin.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage_core::config::Configuration;
use storage_core::config::postgres::PostgresConfig;
use storage_core::config::redis::RedisConfig;
use storage_core::config::service::ServiceConfig;
use storage_core::config::stream::StreamConfig;
use storage_core::config::telemetry::TelemetryConfig;

/// A day.
pub(crate) const DAY: Duration = Duration::from_secs(24 * 3_600);

/// All sections of the configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) redis: RedisConfig,
    pub(crate) postgres: PostgresConfig,
    pub(crate) telemetry: TelemetryConfig,
    pub(crate) stream: StreamConfig,
    pub(crate) service: ServiceConfig,
    pub(crate) admin: AdminConfig,
}

impl Configuration for Config {
    const FOREIGN_SECTIONS: &'static [&'static str] = &["hot", "warm", "backup"];
    const DEFAULTS: &'static [(&'static str, &'static str)] = &[("telemetry.metrics_listen", "127.0.0.1:9103")];
    const ZERO_ALLOWED: &'static [&'static str] = &["admin.rollup_collect", "admin.verify_share"];
    const FIELDS_COMMAND: Option<[&'static str; 2]> = Some(["dead-letters", "requeue"]);
}

/// Section `[admin]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdminConfig {
    /// Largest number of entries of a stream in a batch.
    pub(crate) batch: usize,
    /// Time that ranges to refresh are collected, so that neighbours are refreshed together; `0s`: each range is
    /// refreshed alone.
    #[serde(with = "humantime_serde")]
    pub(crate) rollup_collect: Duration,
    /// Time without acknowledgement after which the entries of another replica are claimed.
    #[serde(with = "humantime_serde")]
    pub(crate) claim_after: Duration,
    /// Interval at which due policies are looked for: those that this worker runs, because TimescaleDB has no scheduler
    /// or is of the Apache edition. Failures of TimescaleDB's jobs are looked for at the same interval.
    #[serde(with = "humantime_serde")]
    pub(crate) policy_interval: Duration,
    /// Interval at which sizes and lags are measured for `/metrics`.
    #[serde(with = "humantime_serde")]
    pub(crate) measure_interval: Duration,
    /// Share of its time in which the comparison of the history in the background may run a statement; zero turns the
    /// comparison off.
    pub(crate) verify_share: f64,
    /// Age up to which policies refresh the larger timeframes; older changes arrive on `stream:rollups`. At least a day
    /// and the intervals of the refreshes more than `warm.refresh_window`.
    #[serde(with = "humantime_serde")]
    pub(crate) refresh_window: Duration,
    /// Age after which a chunk is compressed (Community edition).
    #[serde(with = "humantime_serde")]
    pub(crate) compress_after: Duration,
    /// Interval at which each larger timeframe is refreshed; unset: the length of the timeframe, at most an hour
    /// (Community edition), or `admin.policy_interval` (Apache edition).
    #[serde(with = "humantime_serde")]
    pub(crate) refresh_every: Option<Duration>,
    /// Interval at which old chunks are compressed (Community edition); unset: an hour.
    #[serde(with = "humantime_serde")]
    pub(crate) compress_every: Option<Duration>,
    /// Interval at which old chunks are dropped; unset: a day (Community edition), or `admin.policy_interval` (Apache
    /// edition).
    #[serde(with = "humantime_serde")]
    pub(crate) retain_every: Option<Duration>,
    /// `true` to change the lots of a symbol when quantities do not fit, wherever that is exact.
    pub(crate) adapt_decimals: bool,
    /// Age after which a chunk of `ticks` is dropped; unset: never.
    #[serde(with = "humantime_serde")]
    pub(crate) retain_ticks: Option<Duration>,
    /// Age after which a chunk of `candles_1m` is dropped, while the larger timeframes stay; unset: never.
    #[serde(with = "humantime_serde")]
    pub(crate) retain_candles_1m: Option<Duration>,
    /// Age after which a chunk of `candles_5m` is dropped, while the larger timeframes stay; unset: never.
    #[serde(with = "humantime_serde")]
    pub(crate) retain_candles_5m: Option<Duration>,
    /// Age after which a chunk of `candles_15m` is dropped, while the larger timeframes stay; unset: never.
    #[serde(with = "humantime_serde")]
    pub(crate) retain_candles_15m: Option<Duration>,
    /// Age after which a chunk of `candles_1h` is dropped, while the larger timeframes stay; unset: never.
    #[serde(with = "humantime_serde")]
    pub(crate) retain_candles_1h: Option<Duration>,
    /// Age after which a chunk of `candles_4h` is dropped, while those of a day stay; unset: never.
    #[serde(with = "humantime_serde")]
    pub(crate) retain_candles_4h: Option<Duration>,
    /// Age after which a chunk of `candles_1d` is dropped; unset: never.
    #[serde(with = "humantime_serde")]
    pub(crate) retain_candles_1d: Option<Duration>,
    /// Age after which a chunk of `signals` is dropped; unset: never.
    #[serde(with = "humantime_serde")]
    pub(crate) retain_signals: Option<Duration>,
    /// Time that a new chunk of `ticks` spans; unset: a day.
    #[serde(with = "humantime_serde")]
    pub(crate) chunk_ticks: Option<Duration>,
    /// Time that a new chunk of `candles_1m` spans; unset: a day.
    #[serde(with = "humantime_serde")]
    pub(crate) chunk_candles_1m: Option<Duration>,
    /// Time that a new chunk of `candles_5m` spans; unset: 10 days (Community edition) or 7 (Apache edition).
    #[serde(with = "humantime_serde")]
    pub(crate) chunk_candles_5m: Option<Duration>,
    /// Time that a new chunk of `candles_15m` spans; unset: 10 days (Community edition) or 14 (Apache edition).
    #[serde(with = "humantime_serde")]
    pub(crate) chunk_candles_15m: Option<Duration>,
    /// Time that a new chunk of `candles_1h` spans; unset: 40 days (Community edition) or 60 (Apache edition).
    #[serde(with = "humantime_serde")]
    pub(crate) chunk_candles_1h: Option<Duration>,
    /// Time that a new chunk of `candles_4h` spans; unset: 160 days (Community edition) or 180 (Apache edition).
    #[serde(with = "humantime_serde")]
    pub(crate) chunk_candles_4h: Option<Duration>,
    /// Time that a new chunk of `candles_1d` spans; unset: 1,000 days.
    #[serde(with = "humantime_serde")]
    pub(crate) chunk_candles_1d: Option<Duration>,
    /// Time that a new chunk of `signals` spans; unset: 7 days.
    #[serde(with = "humantime_serde")]
    pub(crate) chunk_signals: Option<Duration>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            batch: 500,
            rollup_collect: Duration::from_secs(1),
            claim_after: Duration::from_secs(60),
            policy_interval: Duration::from_secs(60),
            measure_interval: Duration::from_secs(15),
            verify_share: 0.05,
            refresh_window: 4 * DAY,
            compress_after: DAY,
            refresh_every: None,
            compress_every: None,
            retain_every: None,
            adapt_decimals: true,
            retain_ticks: None,
            retain_candles_1m: None,
            retain_candles_5m: None,
            retain_candles_15m: None,
            retain_candles_1h: None,
            retain_candles_4h: None,
            retain_candles_1d: None,
            retain_signals: None,
            chunk_ticks: None,
            chunk_candles_1m: None,
            chunk_candles_5m: None,
            chunk_candles_15m: None,
            chunk_candles_1h: None,
            chunk_candles_4h: None,
            chunk_candles_1d: None,
            chunk_signals: None,
        }
    }
}
