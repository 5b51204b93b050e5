//! Incremental parser of the reply to XREAD or XREADGROUP for one stream.

use std::ops::Range;

use bytes::BytesMut;
use redis::{RedisError, RedisResult, parse_redis_value};

use super::reply::unexpected;
use crate::domain::entry::{Entry, take_bulk, take_length};
use crate::domain::stream_id::StreamId;

/// State of a partly received reply. Parsed bytes are not parsed again.
#[derive(Debug, Default)]
pub(super) struct EntryParser {
    /// Number of bytes parsed.
    done: usize,
    /// Number of entries still to parse; `None` until the head of the reply is parsed.
    left: Option<usize>,
    found: Vec<(StreamId, Range<usize>)>,
}

impl EntryParser {
    /// Continues with `reply`, all bytes received so far. Returns `true` if the reply is complete.
    pub(super) fn advance(&mut self, reply: &[u8]) -> RedisResult<bool> {
        let left = match self.left {
            Some(left) => left,
            None => {
                let Some((left, done)) = head(reply)? else {
                    return Ok(false);
                };
                self.done = done;
                left
            }
        };
        for left in (0..left).rev() {
            self.left = Some(left + 1);
            let mut rest = reply.get(self.done..).unwrap_or_default();
            let Some((id, length)) = entry(&mut rest)? else {
                return Ok(false);
            };
            let end = reply.len() - rest.len();
            self.found.push((id, end - length..end));
            self.done = end;
        }
        self.left = Some(0);
        Ok(true)
    }

    /// Removes the complete reply from `buffer` and returns its entries.
    pub(super) fn take(self, buffer: &mut BytesMut) -> Vec<Entry> {
        let reply = buffer.split_to(self.done).freeze();
        let entry = |(id, bulks)| Entry::of_bulks(id, reply.slice(bulks));
        self.found.into_iter().map(entry).collect()
    }
}

/// Parses the head of a reply: the number of entries and the offset of the first. `None` if it is not received yet.
fn head(reply: &[u8]) -> RedisResult<Option<(usize, usize)>> {
    if let Some(after) = reply.strip_prefix(NOTHING) {
        return Ok(Some((0, reply.len() - after.len())));
    }
    if reply.starts_with(b"-") {
        return if reply.ends_with(b"\r\n") {
            Err(error_reply(reply))
        } else {
            Ok(None)
        };
    }
    let mut rest = reply;
    for expected in [1, 2] {
        match take_length(b'*', &mut rest) {
            Some(length) if length == expected => {}
            found => return incomplete(found.is_none(), rest),
        }
    }
    if take_bulk(&mut rest).is_none() {
        return incomplete(true, rest);
    }
    match take_length(b'*', &mut rest) {
        Some(entries) => Ok(Some((entries, reply.len() - rest.len()))),
        None => incomplete(true, rest),
    }
}

const NOTHING: &[u8] = b"*-1\r\n";
/// Longest head of a reply or of an entry.
const MAX_HEAD_BYTES: usize = 256;

/// Takes an entry from the beginning of `rest` and returns its ID and the length of its fields in bytes.
fn entry(rest: &mut &[u8]) -> RedisResult<Option<(StreamId, usize)>> {
    let mut bytes = *rest;
    match take_length(b'*', &mut bytes) {
        Some(2) => {}
        found => return incomplete(found.is_none(), bytes),
    }
    let Some(id) = take_bulk(&mut bytes) else {
        return incomplete(true, bytes);
    };
    let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
    let id = id.ok_or_else(|| unexpected("a stream ID"))?;
    if let Some(after) = bytes.strip_prefix(NOTHING) {
        *rest = after;
        return Ok(Some((id, 0)));
    }
    let Some(bulks) = take_length(b'*', &mut bytes) else {
        return incomplete(true, bytes);
    };
    let begin = bytes.len();
    for _ in 0..bulks {
        if take_bulk(&mut bytes).is_none() {
            return match bytes.first() {
                None | Some(b'$') => Ok(None),
                Some(_) => Err(unexpected("a string")),
            };
        }
    }
    *rest = bytes;
    Ok(Some((id, begin - bytes.len())))
}

/// Returns `None` for a head that is not received yet, and an error for bytes that can't be the beginning of one.
fn incomplete<T>(may_be: bool, rest: &[u8]) -> RedisResult<Option<T>> {
    let is_begun = matches!(rest.first(), None | Some(b'*' | b'$'));
    if may_be && is_begun && rest.len() < MAX_HEAD_BYTES {
        Ok(None)
    } else {
        Err(unexpected("the entries of a stream"))
    }
}

fn error_reply(reply: &[u8]) -> RedisError {
    let parsed = parse_redis_value(reply).and_then(|value| value.extract_error());
    parsed.err().unwrap_or_else(|| unexpected("an error"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type TestFields = Vec<(String, Vec<u8>)>;

    /// Encodes the reply for a stream with these entries; a deleted entry has no fields.
    fn reply(entries: &[(u64, Option<TestFields>)]) -> Vec<u8> {
        let bulk = |text: &[u8]| [format!("${}\r\n", text.len()).as_bytes(), text, b"\r\n"].concat();
        let mut reply = [b"*1\r\n*2\r\n", &bulk(b"stream:ticks:0")[..]].concat();
        reply.extend(format!("*{}\r\n", entries.len()).as_bytes());
        for (ms, fields) in entries {
            reply.extend(b"*2\r\n");
            reply.extend(bulk(format!("{ms}-7").as_bytes()));
            match fields {
                None => reply.extend(NOTHING),
                Some(fields) => {
                    reply.extend(format!("*{}\r\n", fields.len() * 2).as_bytes());
                    for (name, value) in fields {
                        reply.extend(bulk(name.as_bytes()));
                        reply.extend(bulk(value));
                    }
                }
            }
        }
        reply
    }

    fn fields() -> impl Strategy<Value = TestFields> {
        prop::collection::vec(("[a-z]{0,5}", prop::collection::vec(any::<u8>(), 0..20)), 1..4)
    }

    proptest! {
        #[test]
        fn every_entry_is_found_wherever_the_reply_is_split(
            entries in prop::collection::vec((any::<u64>(), prop::option::of(fields())), 0..6),
            cuts in prop::collection::vec(0usize..400, 0..6),
        ) {
            let whole = reply(&entries);
            let mut parser = EntryParser::default();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < whole.len()).collect();
            cuts.sort_unstable();
            for cut in cuts {
                prop_assert_eq!(parser.advance(&whole[..cut]).unwrap(), false);
            }
            prop_assert!(parser.advance(&whole).unwrap());
            let expected: Vec<_> = entries
                .into_iter()
                .map(|(ms, fields)| Entry::new(StreamId { ms, seq: 7 }, fields.unwrap_or_default()))
                .collect();
            let mut buffer = BytesMut::from([&whole[..], b"+NEXT"].concat().as_slice());
            prop_assert_eq!(parser.take(&mut buffer), expected);
            prop_assert_eq!(&buffer[..], b"+NEXT");
        }

        #[test]
        fn any_bytes_are_an_error_or_incomplete_and_never_panic(reply in any::<Vec<u8>>()) {
            let _ = EntryParser::default().advance(&reply);
        }
    }

    #[test]
    fn a_reply_without_entries_is_complete() {
        let mut parser = EntryParser::default();
        assert!(!parser.advance(b"*-").unwrap());
        assert!(parser.advance(NOTHING).unwrap());
        let mut buffer = BytesMut::from(NOTHING);
        assert!(parser.take(&mut buffer).is_empty() && buffer.is_empty());
    }

    #[test]
    fn an_error_reply_keeps_its_code() {
        let parse = |reply: &[u8]| EntryParser::default().advance(reply);
        assert!(!parse(b"-NOGROUP No such").unwrap());
        assert_eq!(parse(b"-NOGROUP No such key\r\n").unwrap_err().code(), Some("NOGROUP"));
        for reply in [
            "+OK\r\n",
            ":1\r\n",
            "*2\r\n",
            "*1\r\n*3\r\n",
            "*1\r\n*2\r\n:1\r\n",
            "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n:1\r\n",
        ] {
            assert!(parse(reply.as_bytes()).is_err(), "{reply}");
        }
    }
}
