//! The steps, by what they are about.

mod backup;
mod bad_input;
mod crashes;
mod failover;
mod faults;
mod history;
mod hot;
mod load;
mod lost_state;
mod memory;
mod metrics;
mod outages;
mod scaling;
mod security;
mod settings;
mod setup;
