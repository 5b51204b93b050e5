//! Commands of tick-replayer.

pub(crate) mod generate;
pub(crate) mod replay;
