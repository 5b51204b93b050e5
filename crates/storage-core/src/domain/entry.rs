//! [`Entry`]: a stream entry as it was read, before anybody has judged it.

use std::fmt::Display;
use std::num::ParseIntError;
use std::str::FromStr;

use super::rejection::Rejection;
use super::stream_id::StreamId;

/// A stream entry: its ID and its fields, as the bytes that the producer sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The entry's ID.
    pub id: StreamId,
    /// Field names and values, in the producer's order.
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// The bytes of field `name`.
    ///
    /// # Errors
    /// When the entry has no such field.
    pub fn required(&self, name: &'static str) -> Result<&[u8], Rejection> {
        self.optional(name).ok_or(Rejection::MissingField(name))
    }

    /// The bytes of field `name`, where there are any.
    pub fn optional(&self, name: &str) -> Option<&[u8]> {
        self.fields
            .iter()
            .find(|(field, _)| field == name.as_bytes())
            .map(|(_, value)| value.as_slice())
    }

    /// Field `name`, parsed.
    ///
    /// # Errors
    /// When it is missing or does not parse.
    pub fn parsed<T>(&self, name: &'static str) -> Result<T, Rejection>
    where
        T: FromStr<Err: Display>,
    {
        let text = utf8(name, self.required(name)?)?;
        text.parse().map_err(|error: T::Err| invalid(name, error))
    }

    /// Field `name`, a whole number.
    ///
    /// # Errors
    /// When it is missing or is something else.
    pub fn integer<T: FromStr<Err = ParseIntError>>(&self, name: &'static str) -> Result<T, Rejection> {
        let text = utf8(name, self.required(name)?)?;
        text.parse()
            .map_err(|_| invalid(name, "is not a whole number, or out of its range"))
    }
}

/// The value of `field` as text.
///
/// # Errors
/// When it is not UTF-8.
pub fn utf8<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str, Rejection> {
    std::str::from_utf8(bytes).map_err(|_| invalid(field, "is not UTF-8"))
}

/// A rejection of `field` that says what is wrong with it.
pub fn invalid(field: &'static str, problem: impl Display) -> Rejection {
    Rejection::InvalidField {
        field,
        problem: problem.to_string(),
    }
}
