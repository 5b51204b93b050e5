//! What the replayer can be told to do.

pub(crate) mod generate;
pub(crate) mod replay;
