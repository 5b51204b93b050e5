//! What the feature suite stands on: stores of a scenario's own, the workers as real processes, a producer, and an oracle
//! that knows the pipeline's rules only from their description.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a step that can't go on has failed, and the suite's output is its result"
)]

pub mod database;
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
