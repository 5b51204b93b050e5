//! [`Entry`]: a stream entry as it was read, before validation.

use std::fmt::{self, Display};
use std::num::ParseIntError;
use std::str::FromStr;

use bytes::Bytes;

use super::rejection::Rejection;
use super::stream_id::StreamId;

/// Names and values of the fields of an entry to add.
pub type Fields = Vec<(&'static str, String)>;

/// A stream entry: its ID and its fields as the producer sent them. Cheap to clone.
///
/// The fields keep the form in which Redis sends them, consecutive bulk strings (`$5\r\nprice\r\n$3\r\n1.5\r\n`), so
/// that reading an entry copies and allocates nothing. The entries of one reply share its memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// ID of the entry.
    pub id: StreamId,
    bulks: Bytes,
}

impl Entry {
    /// Creates an entry from names and values of fields.
    pub fn new<N: AsRef<[u8]>, V: AsRef<[u8]>>(id: StreamId, fields: impl IntoIterator<Item = (N, V)>) -> Self {
        let mut bulks = Vec::new();
        for (name, value) in fields {
            push_bulk(&mut bulks, name.as_ref());
            push_bulk(&mut bulks, value.as_ref());
        }
        Self::of_bulks(id, bulks.into())
    }

    /// Creates an entry from the bulk strings of its names and values.
    pub(crate) fn of_bulks(id: StreamId, bulks: Bytes) -> Self {
        Self { id, bulks }
    }

    /// Returns names and values of the fields, in the producer's order.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = self.bulks.as_ref();
        std::iter::from_fn(move || Some((take_bulk(&mut rest)?, take_bulk(&mut rest)?)))
    }

    /// Returns the size of the fields.
    pub fn size_bytes(&self) -> usize {
        self.bulks.len()
    }

    /// Returns `true` if the entry has no fields, as after it was deleted while pending.
    pub fn is_empty(&self) -> bool {
        self.bulks.is_empty()
    }

    /// Returns the values of the fields `names` in one pass, which is fastest if the producer sent them in this order.
    pub fn pick<const N: usize>(&self, names: [&str; N]) -> [Option<&[u8]>; N] {
        let mut found = [None; N];
        let mut expected = 0;
        for (name, value) in self.fields() {
            let is = |at: usize| names.get(at).is_some_and(|wanted| wanted.as_bytes() == name);
            let at = if is(expected) {
                Some(expected)
            } else {
                (0..N).find(|at| is(*at))
            };
            if let Some(at) = at {
                found[at].get_or_insert(value);
                expected = at + 1;
            }
        }
        found
    }

    /// Returns the value of field `name`, or a rejection if it is missing.
    pub fn required(&self, name: &'static str) -> Result<&[u8], Rejection> {
        required(name, self.optional(name))
    }

    /// Returns the value of field `name`.
    pub fn optional(&self, name: &str) -> Option<&[u8]> {
        self.fields()
            .find_map(|(field, value)| (field == name.as_bytes()).then_some(value))
    }

    /// Parses the value of field `name`.
    pub fn parsed<T>(&self, name: &'static str) -> Result<T, Rejection>
    where
        T: FromStr<Err: Display>,
    {
        parsed(name, self.optional(name))
    }

    /// Parses the value of field `name` as an integer.
    pub fn integer<T: FromStr<Err = ParseIntError>>(&self, name: &'static str) -> Result<T, Rejection> {
        integer(name, self.optional(name))
    }
}

/// Writes the fields as text.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let fields = self.fields().map(|(name, value)| (text(name), text(value)));
        write!(f, "{} ", self.id)?;
        f.debug_map().entries(fields).finish()
    }
}

fn push_bulk(bulks: &mut Vec<u8>, text: &[u8]) {
    bulks.extend_from_slice(format!("${}\r\n", text.len()).as_bytes());
    bulks.extend_from_slice(text);
    bulks.extend_from_slice(b"\r\n");
}

/// Takes a bulk string from the beginning of `rest`; `None` if it does not begin with a complete one.
pub(crate) fn take_bulk<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let mut bytes = *rest;
    let length = take_length(b'$', &mut bytes)?;
    let text = bytes.get(..length)?;
    *rest = bytes.get(length..)?.strip_prefix(b"\r\n")?;
    Some(text)
}

/// Takes `<mark><length>\r\n` from the beginning of `rest`; `None` if it does not begin with a complete one.
pub(crate) fn take_length(mark: u8, rest: &mut &[u8]) -> Option<usize> {
    let [first, tail @ ..] = *rest else { return None };
    if *first != mark {
        return None;
    }
    let mut length = 0_usize;
    for (at, byte) in tail.iter().enumerate() {
        match byte {
            b'0'..=b'9' => length = length.checked_mul(10)?.checked_add(usize::from(byte - b'0'))?,
            b'\r' => {
                *rest = tail.get(at..)?.strip_prefix(b"\r\n")?;
                return Some(length);
            }
            _ => return None,
        }
    }
    None
}

/// Returns `value`, or a rejection that names `field` if it is missing.
pub fn required<'a>(field: &'static str, value: Option<&'a [u8]>) -> Result<&'a [u8], Rejection> {
    value.ok_or(Rejection::MissingField(field))
}

/// Parses the value of `field`.
pub fn parsed<T>(field: &'static str, value: Option<&[u8]>) -> Result<T, Rejection>
where
    T: FromStr<Err: Display>,
{
    let text = utf8(field, required(field, value)?)?;
    text.parse().map_err(|error: T::Err| invalid(field, error))
}

/// Parses the value of `field` as an integer.
pub fn integer<T: FromStr<Err = ParseIntError>>(field: &'static str, value: Option<&[u8]>) -> Result<T, Rejection> {
    let text = utf8(field, required(field, value)?)?;
    text.trim_ascii()
        .parse()
        .map_err(|_| invalid(field, "is not an integer, or out of range"))
}

/// Decodes the value of `field` as UTF-8.
pub fn utf8<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str, Rejection> {
    std::str::from_utf8(bytes).map_err(|_| invalid(field, "is not UTF-8"))
}

/// Returns the rejection of an invalid `field`.
pub fn invalid(field: &'static str, problem: impl Display) -> Rejection {
    Rejection::InvalidField {
        field,
        problem: problem.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_kept(fields in prop::collection::vec((any::<Vec<u8>>(), any::<Vec<u8>>()), 0..8)) {
            let entry = Entry::new(StreamId::START, fields.clone());
            let kept: Vec<_> = entry.fields().map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
            prop_assert_eq!(kept, fields);
        }
    }

    #[test]
    fn the_first_of_two_fields_with_the_same_name_counts_in_any_order() {
        let entry = Entry::new(
            StreamId::START,
            [("b", "1"), ("x", "2"), ("a", "3"), ("b", "4"), ("a", "5")],
        );
        let [a, b, c] = entry.pick(["a", "b", "c"]);
        assert_eq!((a, b, c), (Some(&b"3"[..]), Some(&b"1"[..]), None));
        assert_eq!((entry.optional("b"), entry.optional("c")), (b, c));
        assert_eq!(
            format!("{entry:?}"),
            r#"0-0 {"b": "1", "x": "2", "a": "3", "b": "4", "a": "5"}"#
        );
    }

    #[test]
    fn an_incomplete_bulk_string_is_none() {
        for text in [
            "",
            "$",
            "$3",
            "$3\r\nab",
            "$3\r\nabc\r",
            "$3\r\nabcd\r\n",
            "*1\r\na\r\n",
            "$-1\r\n",
            "$99999999999999999999\r\n",
        ] {
            assert_eq!(take_bulk(&mut text.as_bytes()), None, "{text}");
        }
    }
}
