//! The steps, by what they are about.

mod backup;
mod bad_input;
mod faults;
mod history;
mod hot;
mod metrics;
mod security;
mod setup;
