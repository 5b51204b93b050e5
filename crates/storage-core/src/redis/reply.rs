//! Reading the replies of stream commands, byte for byte: fields may hold anything.

use redis::{ErrorKind, RedisError, RedisResult, Value};

use crate::domain::entry::Entry;
use crate::domain::stream_id::StreamId;

/// A list of entries. One that was deleted while pending comes without fields.
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

/// A stream ID.
pub(super) fn stream_id(value: Value) -> RedisResult<StreamId> {
    let text = String::from_utf8(bytes(value)?).map_err(|_| unexpected("a stream ID"))?;
    text.parse().map_err(|_| unexpected("a stream ID"))
}

/// An array.
pub(super) fn array(value: Value) -> RedisResult<Vec<Value>> {
    match value {
        Value::Array(items) => Ok(items),
        _ => Err(unexpected("an array")),
    }
}

/// A string's bytes.
pub(super) fn bytes(value: Value) -> RedisResult<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Ok(bytes),
        Value::SimpleString(text) => Ok(text.into_bytes()),
        _ => Err(unexpected("a string")),
    }
}

/// The error that Redis answered with something else.
pub(super) fn unexpected(wanted: &'static str) -> RedisError {
    (
        ErrorKind::UnexpectedReturnType,
        "Redis did not answer with",
        wanted.to_owned(),
    )
        .into()
}
