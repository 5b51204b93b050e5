//! storage-core
pub mod domain;
pub mod config;
pub mod retry;
pub mod service;
pub mod telemetry;
