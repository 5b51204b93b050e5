//! Hot storage: the only module that sends commands to Redis.
//!
//! [`keys`] builds every key, [`stream`] lists the streams with their groups, [`codec`] encodes and decodes what is
//! stored, and [`functions`] calls the Redis Functions for steps that must be atomic.

#![allow(clippy::disallowed_methods)]

pub mod backups;
pub mod clock;
pub mod codec;
pub mod connection;
pub mod database;
mod entry_parser;
mod entry_reader;
pub mod functions;
pub mod group_reader;
pub mod groups;
pub mod hot;
pub mod inspect;
pub mod keys;
pub mod lease;
pub mod look;
pub mod lost;
pub mod nodes;
pub mod ownership;
pub mod partitions;
pub mod position;
pub mod preflight;
pub mod refresh_windows;
mod reply;
pub mod startup;
pub mod stream;
pub mod stream_reader;
pub mod symbols;
pub mod transfer;
pub mod trim;
pub mod unread;
pub mod write_load;
