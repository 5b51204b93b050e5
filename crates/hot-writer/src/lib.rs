//! hot-writer: folds ticks into the hot view in Redis.
//!
//! The modules in the order in which a tick passes them: a replica acquires partitions (`ownership`) and serves each of
//! them (`partition`). It restores the partition's state from Redis (`restore`), reads the stream ahead (`read`),
//! decodes the entries ([`decode`]), drops duplicates ([`dedup`]), folds the rest into candles ([`fold`], by the
//! `fold_task`), and closes candles (`close`). Latest ticks are published immediately (`publish`). Everything else goes
//! to the writer (`write`) as a `batch`, in a `backlog` after a while; open candles wait there, 1-minute candles before
//! larger ones (`queue`), for the `budget` of Redis, whose `limit` the replicas `share`. `age` measures what is
//! reached. `signals` activates signals; `trim` trims the streams.

mod age;
mod backlog;
mod batch;
mod budget;
mod close;
pub mod config;
pub mod decode;
pub mod dedup;
pub mod fold;
mod fold_task;
mod limit;
mod metrics;
mod ownership;
mod partition;
mod publish;
mod queue;
mod read;
mod restore;
pub mod run;
mod series;
mod share;
mod signals;
mod trim;
mod write;
