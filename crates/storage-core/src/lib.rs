//! Shared by the workers: the domain's types, access to Redis and PostgreSQL, and the common parts of a program:
//! command line, configuration, start-up, tasks, retries, telemetry and output. It holds no worker's logic.

pub mod cli;
pub mod config;
pub mod domain;
pub mod error_class;
pub mod postgres;
pub mod redis;
pub mod retry;
pub mod service;
pub mod startup;
pub mod telemetry;
pub mod terminal;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
