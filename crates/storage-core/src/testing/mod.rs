//! Servers for tests, each test apart from the others. Behind the feature `testing`, so that no worker carries it.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test that can't have its server has failed, and what was skipped must be seen"
)]

pub mod certificates;
pub mod native;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod roles;
