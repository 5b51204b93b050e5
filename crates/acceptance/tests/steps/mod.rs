//! The steps, by what they are about.

mod backup;
mod bad_input;
mod crashes;
mod faults;
mod history;
mod hot;
mod load;
mod metrics;
mod outages;
mod scaling;
mod security;
mod setup;
