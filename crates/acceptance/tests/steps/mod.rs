//! The steps, by what they are about.

mod bad_input;
mod faults;
mod history;
mod hot;
mod setup;
