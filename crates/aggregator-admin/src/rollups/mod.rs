//! The larger timeframes: which buckets a change touches, refreshing them, and the task that does it for
//! `stream:rollups`.

pub(crate) mod collect;
pub(crate) mod ranges;
pub(crate) mod refresh;
