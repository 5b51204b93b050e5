//! Parsers of replies to stream commands. Fields may contain any bytes.

use redis::{ErrorKind, RedisError, RedisResult, Value};

use crate::domain::entry::Entry;
use crate::domain::stream_id::StreamId;

/// Parses a list of entries. An entry that was deleted while pending has no fields.
pub(super) fn entries(reply: Value) -> RedisResult<Vec<Entry>> {
    array(reply)?
        .into_iter()
        .filter(|item| *item != Value::Nil)
        .map(entry)
        .collect()
}

fn entry(item: Value) -> RedisResult<Entry> {
    let mut parts = array(item)?.into_iter();
    let id = stream_id(parts.next().unwrap_or(Value::Nil))?;
    let mut values = match parts.next() {
        Some(Value::Nil) | None => Vec::new(),
        Some(fields) => array(fields)?,
    }
    .into_iter();
    let mut fields = Vec::with_capacity(values.len() / 2);
    while let (Some(name), Some(value)) = (values.next(), values.next()) {
        fields.push((bytes(name)?, bytes(value)?));
    }
    Ok(Entry::new(id, fields))
}

/// Parses a stream ID.
pub(super) fn stream_id(value: Value) -> RedisResult<StreamId> {
    let text = String::from_utf8(bytes(value)?).map_err(|_| unexpected("a stream ID"))?;
    text.parse().map_err(|_| unexpected("a stream ID"))
}

/// Parses an array.
pub(super) fn array(value: Value) -> RedisResult<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(unexpected("an array")),
    }
}

/// Parses a string.
pub(super) fn bytes(value: Value) -> RedisResult<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        _ => Err(unexpected("a string")),
    }
}

/// Returns the error for a reply of another type than `expected`.
pub(super) fn unexpected(expected: &'static str) -> RedisError {
    (
        ErrorKind::UnexpectedReturnType,
        "unexpected reply of Redis, instead of",
        expected.to_owned(),
    )
        .into()
}
