//! Finding the entries in the bytes of a reply to XREAD or XREADGROUP for one stream, while it still comes in.

use std::ops::Range;

use bytes::BytesMut;
use redis::{RedisError, RedisResult, parse_redis_value};

use super::reply::unexpected;
use crate::domain::entry::{Entry, take_bulk, take_length};
use crate::domain::stream_id::StreamId;

/// A reply as far as it has come in. What was found is not looked at again.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The bytes that were understood.
    done: usize,
    /// The entries to come, once the reply's head is there.
    left: Option<usize>,
    found: Vec<(StreamId, Range<usize>)>,
}

impl Scan {
    /// Goes on with `reply`, of which there is more than before. Says whether it is complete.
    ///
    /// # Errors
    /// What Redis refuses, or when the reply is of another form.
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

    /// Takes the complete reply out of `buffer`: its entries.
    pub(super) fn take(self, buffer: &mut BytesMut) -> Vec<Entry> {
        let reply = buffer.split_to(self.done).freeze();
        let entry = |(id, bulks)| Entry::of_bulks(id, reply.slice(bulks));
        self.found.into_iter().map(entry).collect()
    }
}

/// The number of entries, and where they begin; `None` when that has not come in yet.
fn head(reply: &[u8]) -> RedisResult<Option<(usize, usize)>> {
    if let Some(after) = reply.strip_prefix(NOTHING) {
        return Ok(Some((0, reply.len() - after.len())));
    }
    if reply.starts_with(b"-") {
        return if reply.ends_with(b"\r\n") {
            Err(refusal(reply))
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
/// No head of a reply or of an entry is longer.
const MAX_HEAD_BYTES: usize = 256;

/// An entry at the beginning of `rest`: its ID, and the length in bytes of its fields, which end where `rest` begins then.
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

/// What to make of a head that could not be read: it has not come in yet, unless there is something else in its place.
fn incomplete<T>(may_be: bool, rest: &[u8]) -> RedisResult<Option<T>> {
    let is_begun = matches!(rest.first(), None | Some(b'*' | b'$'));
    if may_be && is_begun && rest.len() < MAX_HEAD_BYTES {
        Ok(None)
    } else {
        Err(unexpected("the entries of a stream"))
    }
}

fn refusal(reply: &[u8]) -> RedisError {
    let refused = parse_redis_value(reply).and_then(|value| value.extract_error());
    refused.err().unwrap_or_else(|| unexpected("an error"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type TestFields = Vec<(String, Vec<u8>)>;

    /// The reply of a stream with these entries, the fields of some deleted.
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
        fn every_entry_is_found_however_the_reply_is_cut(
            entries in prop::collection::vec((any::<u64>(), prop::option::of(fields())), 0..6),
            cuts in prop::collection::vec(0usize..400, 0..6),
        ) {
            let whole = reply(&entries);
            let mut scan = Scan::default();
            let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < whole.len()).collect();
            cuts.sort_unstable();
            for cut in cuts {
                prop_assert_eq!(scan.advance(&whole[..cut]).unwrap(), false);
            }
            prop_assert!(scan.advance(&whole).unwrap());
            let expected: Vec<_> = entries
                .into_iter()
                .map(|(ms, fields)| Entry::new(StreamId { ms, seq: 7 }, fields.unwrap_or_default()))
                .collect();
            let mut buffer = BytesMut::from([&whole[..], b"+NEXT"].concat().as_slice());
            prop_assert_eq!(scan.take(&mut buffer), expected);
            prop_assert_eq!(&buffer[..], b"+NEXT");
        }

        #[test]
        fn rubbish_is_an_error_or_waits_for_more_and_never_a_panic(reply in any::<Vec<u8>>()) {
            let _ = Scan::default().advance(&reply);
        }
    }

    #[test]
    fn nothing_to_read_is_a_complete_reply() {
        let mut scan = Scan::default();
        assert!(!scan.advance(b"*-").unwrap());
        assert!(scan.advance(NOTHING).unwrap());
        let mut buffer = BytesMut::from(NOTHING);
        assert!(scan.take(&mut buffer).is_empty() && buffer.is_empty());
    }

    #[test]
    fn what_redis_refuses_keeps_its_code() {
        let refused = |reply: &[u8]| Scan::default().advance(reply);
        assert!(!refused(b"-NOGROUP No such").unwrap());
        assert_eq!(
            refused(b"-NOGROUP No such key\r\n").unwrap_err().code(),
            Some("NOGROUP")
        );
        for reply in [
            "+OK\r\n",
            ":1\r\n",
            "*2\r\n",
            "*1\r\n*3\r\n",
            "*1\r\n*2\r\n:1\r\n",
            "*1\r\n*2\r\n$1\r\ns\r\n*1\r\n:1\r\n",
        ] {
            assert!(refused(reply.as_bytes()).is_err(), "{reply}");
        }
    }
}
