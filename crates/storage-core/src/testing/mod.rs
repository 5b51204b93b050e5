//! The harness of all integration tests: stores for one test each, the programs as processes, polling. Behind the
//! feature `testing`, which no worker enables.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test without its server has failed, and its worker's log belongs to the test's output"
)]

pub mod certificates;
pub mod cluster;
pub mod http;
pub mod native;
pub mod polling;
pub mod postgres;
pub mod process;
pub mod program;
pub mod redis;
pub mod roles;
pub mod skip;
