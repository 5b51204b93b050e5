//! Tests against a real Redis: functions, connections, users and TLS.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the tests of rights send commands that no worker sends"
)]

mod access;
mod connections;
mod functions;
mod groups;
mod lost;
mod ownership;
mod preflight;
mod tls;

storage_core::define_metrics! {
    prefix "test";

    /// Total number of entries removed before they were finished.
    Counter LOST = "lost_entries_total";
    /// Number of partitions served.
    Gauge PARTITIONS = "partitions_count";
}
