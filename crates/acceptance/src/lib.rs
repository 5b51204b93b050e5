//! The base of the feature suite and the soak: stores of each scenario, the workers as real processes, a producer, and
//! an oracle that is independent of the workers' code.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a step that can't continue has failed, and the suite's output is its result"
)]

pub mod command_line;
pub mod database;
pub mod disk_filler;
pub mod expected;
pub mod faults;
pub mod flavour;
pub mod load;
pub mod network;
pub mod oracle;
pub mod pipeline;
pub mod producer;
pub mod proxy;
pub mod publisher;
pub mod redis_server;
pub mod replicated;
pub mod requirements;
pub mod tools;
