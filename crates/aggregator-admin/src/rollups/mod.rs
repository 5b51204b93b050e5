//! Refreshes the larger timeframes: the buckets that a change touches, on request of a command or of `stream:rollups`.

pub(crate) mod collect;
pub(crate) mod ranges;
pub(crate) mod refresh;
