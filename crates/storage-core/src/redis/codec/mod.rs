//! Encoding and decoding of hashes, stream entries and messages, with one module per kind.

pub mod backups;
pub mod candles;
pub mod dead;
pub mod feeds;
pub mod repairs;
pub mod rollups;
pub mod signals;
pub mod ticks;

use std::fmt::Display;

use serde::{Serialize, Serializer};

/// Encodes a message as JSON. The messages of this module consist of texts and numbers, so encoding them can't fail.
fn json(message: &impl Serialize) -> String {
    serde_json::to_string(message).unwrap_or_default()
}

fn as_text<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}
