//! Hot storage: the only place that speaks to Redis.
//!
//! Keys are built in [`keys`], streams and their groups are listed in [`stream`], what goes over the wire is written and
//! read in [`codec`], and what must happen in one step is a Redis Function ([`functions`]).

#![allow(clippy::disallowed_methods)]

pub mod backups;
pub mod codec;
pub mod connection;
pub mod database;
mod entry_reader;
pub mod functions;
pub mod group_reader;
pub mod groups;
pub mod hot;
pub mod inspect;
pub mod keys;
pub mod lease;
pub mod lost;
pub mod nodes;
pub mod ownership;
pub mod partitions;
pub mod position;
pub mod preflight;
mod reply;
mod scan;
pub mod startup;
pub mod stream;
pub mod symbols;
pub mod transfer;
pub mod trim;
