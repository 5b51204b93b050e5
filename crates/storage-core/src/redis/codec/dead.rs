//! Dead letters: invalid entries, kept as they arrived, on `stream:dead`.

use std::borrow::Cow;
use std::fmt::Display;

use serde_json::{Map, Value};

use crate::domain::entry::Fields;
use crate::domain::entry::{Entry, invalid};
use crate::domain::rejection::Rejection;
use crate::domain::stream_id::StreamId;
use crate::redis::stream::Stream;

/// Length to which names and values are truncated, so that a dead letter takes little memory.
const MAX_VALUE_BYTES: usize = 4_096;
/// Number of fields after which the rest is left out.
const MAX_FIELDS: usize = 64;

/// An invalid entry and the reason.
#[derive(Clone, Debug, PartialEq)]
pub struct DeadLetter {
    /// Key of the stream of the entry.
    pub stream: String,
    /// ID of the entry.
    pub id: StreamId,
    /// Reason for the rejection, and remedy.
    pub reason: String,
    /// Fields of the entry as text.
    pub fields: Map<String, Value>,
    /// `true` if `fields` is incomplete.
    pub truncated: bool,
}

impl DeadLetter {
    /// Creates the dead letter of an entry of `stream`.
    pub fn new(stream: Stream, entry: &Entry, reason: impl Display) -> Self {
        let mut truncated = entry.fields().nth(MAX_FIELDS).is_some();
        let mut text = |bytes: &[u8]| {
            let cut = &bytes[..bytes.len().min(MAX_VALUE_BYTES)];
            truncated |= cut.len() < bytes.len();
            // PostgreSQL's text and jsonb can't contain a zero byte.
            String::from_utf8_lossy(cut).replace('\0', "\u{fffd}")
        };
        let fields = entry
            .fields()
            .take(MAX_FIELDS)
            .map(|(name, value)| (text(name), Value::String(text(value))))
            .collect();
        Self {
            stream: stream.key().to_string(),
            id: entry.id,
            reason: reason.to_string(),
            fields,
            truncated,
        }
    }
}

/// Encodes an entry.
pub fn entry_fields(letter: &DeadLetter) -> Fields {
    vec![
        ("stream", letter.stream.clone()),
        ("id", letter.id.to_string()),
        ("reason", letter.reason.clone()),
        ("fields", Value::Object(letter.fields.clone()).to_string()),
        ("truncated", u8::from(letter.truncated).to_string()),
    ]
}

/// Decodes an entry. A malformed entry of `stream:dead` is returned as the dead letter of itself.
pub fn decode_entry(entry: &Entry) -> DeadLetter {
    try_decode(entry).unwrap_or_else(|reason| DeadLetter::new(Stream::Dead, entry, &reason))
}

fn try_decode(entry: &Entry) -> Result<DeadLetter, Rejection> {
    let json = entry.required("fields")?;
    Ok(DeadLetter {
        stream: String::from_utf8_lossy(entry.required("stream")?).into_owned(),
        id: entry.parsed("id")?,
        reason: entry
            .optional("reason")
            .map(String::from_utf8_lossy)
            .map(Cow::into_owned)
            .unwrap_or_default(),
        fields: serde_json::from_slice(json).map_err(|error| invalid("fields", error))?,
        truncated: entry.optional("truncated") == Some(b"1"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: &[(&[u8], &[u8])]) -> Entry {
        Entry::new("5-1".parse().unwrap(), fields.iter().copied())
    }

    #[test]
    fn keeps_the_fields_and_truncates_long_values() {
        let long = vec![b'x'; 1_000_000];
        let letter = DeadLetter::new(
            Stream::Ticks(2),
            &entry(&[(b"symbol", b"A:B"), (b"\xff\0", &long)]),
            Rejection::MissingField("qty"),
        );
        assert_eq!(
            (letter.stream.as_str(), letter.reason.as_str()),
            ("stream:ticks:2", "field `qty` is missing")
        );
        assert_eq!(letter.fields["symbol"], "A:B");
        assert!(letter.truncated);
        let fields = entry_fields(&letter);
        assert!(fields.iter().map(|(_, value)| value.len()).sum::<usize>() < 10_000);
        let bytes: Vec<_> = fields.iter().map(|(k, v)| (k.as_bytes(), v.as_bytes())).collect();
        assert_eq!(decode_entry(&entry(&bytes)), letter);
    }

    #[test]
    fn a_malformed_dead_letter_becomes_a_dead_letter() {
        let letter = decode_entry(&entry(&[(b"nonsense", b"1")]));
        assert_eq!(
            (letter.stream.as_str(), letter.reason.as_str()),
            ("stream:dead", "field `fields` is missing")
        );
    }
}
