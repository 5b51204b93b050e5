//! Configuration: one file per section, and [`layers`], which merges defaults, file, environment
//! and flags in this order and refuses what it doesn't know.
//!
//! A worker's configuration is a struct of sections. It derives `Serialize` and `Deserialize` with
//! `#[serde(deny_unknown_fields)]`, and its `Default` is the complete set of keys that exist: every
//! field is serialized (no `skip_serializing_if`), and no default holds a secret.

pub mod layers;
pub mod postgres;
pub mod redis;
pub mod redis_servers;
pub mod secret_url;
pub mod service;
pub mod stream;
pub mod telemetry;
pub mod zero;

mod error;
mod password_file;

pub use error::Misconfigured;
