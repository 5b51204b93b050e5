//! The program against real stores.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test that can't go on has failed; what was skipped must be seen; servers are filled with what no worker writes"
)]

mod base;
mod cluster;
mod interrupted;
mod postgres;
mod redis;
mod run;
mod support;
