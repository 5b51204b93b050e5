//! The configuration of aggregator-admin.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use storage_core::config::positive;
use storage_core::config::postgres::PostgresConfig;
use storage_core::config::redis::RedisConfig;
use storage_core::config::service::ServiceConfig;
use storage_core::config::stream::StreamConfig;
use storage_core::config::telemetry::TelemetryConfig;

/// All sections that this worker reads.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) redis: RedisConfig,
    pub(crate) postgres: PostgresConfig,
    pub(crate) telemetry: TelemetryConfig,
    pub(crate) stream: StreamConfig,
    pub(crate) service: ServiceConfig,
    pub(crate) admin: AdminConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            redis: RedisConfig::default(),
            postgres: PostgresConfig::default(),
            telemetry: TelemetryConfig::listening_on(9103),
            stream: StreamConfig::default(),
            service: ServiceConfig::default(),
            admin: AdminConfig::default(),
        }
    }
}

/// Section `[admin]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AdminConfig {
    /// The most entries of a stream that are worked on together.
    #[serde(deserialize_with = "positive::number")]
    pub(crate) batch: usize,
    /// How long ranges to refresh are collected, so that neighbours are refreshed once.
    #[serde(with = "humantime_serde")]
    pub(crate) rollup_collect: Duration,
    /// After this time without acknowledgement the entries of another copy are taken over.
    #[serde(
        serialize_with = "humantime_serde::serialize",
        deserialize_with = "positive::duration"
    )]
    pub(crate) claim_after: Duration,
    /// How often policies run where TimescaleDB has no scheduler, and how often the Apache edition's larger timeframes are
    /// brought up to date.
    #[serde(
        serialize_with = "humantime_serde::serialize",
        deserialize_with = "positive::duration"
    )]
    pub(crate) policy_interval: Duration,
    /// How often sizes and lags are measured for `/metrics`.
    #[serde(
        serialize_with = "humantime_serde::serialize",
        deserialize_with = "positive::duration"
    )]
    pub(crate) measure_interval: Duration,
    /// Changes of candles younger than this are refreshed by policy; older ones by `stream:rollups`.
    #[serde(
        serialize_with = "humantime_serde::serialize",
        deserialize_with = "positive::duration"
    )]
    pub(crate) refresh_window: Duration,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            batch: 500,
            rollup_collect: Duration::from_secs(1),
            claim_after: Duration::from_secs(60),
            policy_interval: Duration::from_secs(60),
            measure_interval: Duration::from_secs(15),
            refresh_window: Duration::from_secs(3 * 24 * 3_600),
        }
    }
}
