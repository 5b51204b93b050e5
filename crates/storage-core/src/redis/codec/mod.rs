//! What travels in hashes, streams and messages: one module per kind, each with its encoding and its decoding.

pub mod backups;
pub mod candles;
pub mod dead;
pub mod repairs;
pub mod rollups;
pub mod signals;
pub mod ticks;

use std::fmt::Display;

use serde::{Serialize, Serializer};

/// A message as JSON. Those of this module are structures of texts and numbers, which always have a form in it.
fn json(message: &impl Serialize) -> String {
    serde_json::to_string(message).unwrap_or_default()
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
