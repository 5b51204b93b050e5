//! hot-writer: folds ticks into the hot view in Redis.
//!
//! The modules in the order in which a tick passes them: a replica acquires partitions (`ownership`) and serves each of
//! them (`partition`). It restores the partition's state from Redis (`restore`), reads the stream ahead (`read`),
//! decodes the entries ([`decode`]), drops duplicates (`dedup`), folds the rest into candles ([`fold`]), closes candles
//! (`close`), and writes the changes (`write`) at a limited rate (`pace`). `signals` activates signals; `trim` trims
//! the streams.

mod close;
pub mod config;
pub mod decode;
mod dedup;
pub mod fold;
mod metrics;
mod ownership;
mod pace;
mod partition;
mod read;
mod restore;
pub mod run;
mod series;
mod signals;
mod trim;
mod write;
