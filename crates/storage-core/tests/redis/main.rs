//! Access to a real Redis: who may do what, and TLS.
#![allow(clippy::unwrap_used, reason = "a test")]
#![allow(
    clippy::disallowed_methods,
    reason = "refusals are tested with commands that no worker sends"
)]

mod access;
mod tls;
