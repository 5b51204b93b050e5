//! What travels in hashes, streams and messages: one module per kind, each with its encoding and its decoding.

pub mod backups;
pub mod candles;
pub mod dead;
pub mod repairs;
pub mod rollups;
pub mod signals;
pub mod ticks;
