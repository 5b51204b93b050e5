//! What the replayer can be configured to.

use serde::{Deserialize, Serialize};
use storage_core::config::redis::RedisConfig;
use storage_core::config::service::ServiceConfig;

/// The sections that the replayer reads; those of the workers may stand in the same file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) redis: RedisConfig,
    pub(crate) service: ServiceConfig,
}
