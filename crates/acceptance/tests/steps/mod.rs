//! Steps by topic.

mod backup;
mod bad_input;
mod check;
mod crashes;
mod failover;
mod faults;
mod freshness;
mod history;
mod hot;
mod load;
mod lost_state;
mod memory;
mod metrics;
mod notification;
mod outages;
mod scaling;
mod security;
mod settings;
mod setup;
mod table;
mod trades;
pub(crate) mod world;
