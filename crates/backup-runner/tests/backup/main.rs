//! backup-runner with real stores.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that can't continue has failed; servers are filled with keys that no worker writes"
)]

mod base;
mod cluster;
mod interrupted;
mod postgres;
mod redis;
mod run;
mod support;
