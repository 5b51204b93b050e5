//! Configuration of tick-replayer.

use serde::{Deserialize, Serialize};
use storage_core::config::Configuration;
use storage_core::config::redis::RedisConfig;
use storage_core::config::service::ServiceConfig;

/// Sections that tick-replayer reads. The same file may have the sections of the workers.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) redis: RedisConfig,
    pub(crate) service: ServiceConfig,
}

impl Configuration for Config {
    const FOREIGN_SECTIONS: &'static [&'static str] = &["hot", "warm", "admin", "backup"];
}
