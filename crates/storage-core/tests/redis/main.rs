//! A real Redis: its functions, connections, who may do what, and TLS.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(
    clippy::disallowed_methods,
    reason = "refusals are tested with commands that no worker sends"
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

    /// Entries that were deleted before they were finished.
    Counter LOST = "lost_entries_total";
    /// Partitions that are served.
    Gauge PARTITIONS = "partitions_count";
}
