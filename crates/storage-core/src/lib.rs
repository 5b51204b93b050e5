//! What the workers share: the market's vocabulary, access to Redis and PostgreSQL, configuration, telemetry and the
//! ownership of tasks. It holds no worker's logic.

pub mod config;
pub mod domain;
pub mod postgres;
pub mod redis;
pub mod retry;
pub mod service;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
