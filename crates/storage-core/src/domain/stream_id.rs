//! [`StreamId`] and [`Revision`]: the order in which Redis accepted entries.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::rejection::Rejection;
use super::time::ms_to_us;

/// ID of a stream entry, `<ms>-<seq>`: the time of Redis in milliseconds and a sequence number within it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId {
    /// Time of Redis in ms since 1970.
    pub ms: u64,
    /// Sequence number of the entry within that millisecond.
    pub seq: u64,
}

/// A text that is not a stream ID.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a stream ID")]
pub struct InvalidStreamId(String);

impl StreamId {
    /// ID before every entry: reading after it reads the whole stream.
    pub const START: Self = Self { ms: 0, seq: 0 };

    /// ID after every entry: reading up to it reads the whole stream.
    pub const END: Self = Self {
        ms: u64::MAX,
        seq: u64::MAX,
    };

    /// Returns the smallest ID greater than this one.
    #[must_use]
    pub fn next(self) -> Self {
        match self.seq.checked_add(1) {
            Some(seq) => Self { ms: self.ms, seq },
            None => Self {
                ms: self.ms.saturating_add(1),
                seq: 0,
            },
        }
    }

    /// Returns the first ID of the millisecond `ms`.
    pub fn at_ms(ms: u64) -> Self {
        Self { ms, seq: 0 }
    }

    /// Returns the time at which Redis accepted the entry, in µs since 1970.
    pub fn accepted_us(self) -> i64 {
        ms_to_us(self.ms)
    }
}

impl FromStr for StreamId {
    type Err = InvalidStreamId;

    fn from_str(text: &str) -> Result<Self, InvalidStreamId> {
        let parts = text.split_once('-').unwrap_or((text, "0"));
        match (parts.0.parse(), parts.1.parse()) {
            (Ok(ms), Ok(seq)) => Ok(Self { ms, seq }),
            _ => Err(InvalidStreamId(text.to_owned())),
        }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

const SEQ_BITS: u32 = 22;

/// Version of a hash in Redis or of a candle: the ID of the last stream entry folded into it, as the number `ms << 22 |
/// seq`, which fits a PostgreSQL bigint until the year 2039.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(i64);

impl Revision {
    /// Returns the number, as bigint columns hold it.
    pub fn as_i64(self) -> i64 {
        self.0
    }

    /// Returns the ID of the stream entry.
    pub fn stream_id(self) -> StreamId {
        let bits = self.0.unsigned_abs();
        StreamId {
            ms: bits >> SEQ_BITS,
            seq: bits & ((1 << SEQ_BITS) - 1),
        }
    }

    /// First ID that is too great for a revision.
    pub const LIMIT: StreamId = StreamId {
        ms: 1 << (63 - SEQ_BITS),
        seq: 0,
    };

    /// Returns the greatest revision below this one.
    #[must_use]
    pub fn before(self) -> Self {
        Self((self.0 - 1).max(0))
    }
}

impl TryFrom<StreamId> for Revision {
    type Error = Rejection;

    /// Fails for IDs that Redis does not generate: more than 2^22 entries in a millisecond, or a time after 2039.
    fn try_from(id: StreamId) -> Result<Self, Rejection> {
        if id.seq >> SEQ_BITS != 0 || id >= Self::LIMIT {
            return Err(Rejection::UnusableId);
        }
        i64::try_from(id.ms << SEQ_BITS | id.seq)
            .map(Self)
            .map_err(|_| Rejection::UnusableId)
    }
}

impl TryFrom<i64> for Revision {
    type Error = Rejection;

    fn try_from(number: i64) -> Result<Self, Rejection> {
        if number < 0 {
            Err(Rejection::UnusableId)
        } else {
            Ok(Self(number))
        }
    }
}

impl FromStr for Revision {
    type Err = Rejection;

    fn from_str(text: &str) -> Result<Self, Rejection> {
        text.parse::<i64>().map_err(|_| Rejection::UnusableId)?.try_into()
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_that_redis_does_not_generate_is_refused() {
        assert!(Revision::try_from(StreamId { ms: 1, seq: 1 << 22 }).is_err());
        assert!(Revision::try_from(StreamId { ms: 1 << 41, seq: 0 }).is_err());
        assert!("1-x".parse::<StreamId>().is_err());
    }

    proptest! {
        #[test]
        fn revisions_keep_the_order_of_ids(a in (0u64..1 << 41, 0u64..1 << 22), b in (0u64..1 << 41, 0u64..1 << 22)) {
            let [a, b] = [a, b].map(|(ms, seq)| StreamId { ms, seq });
            let [ra, rb] = [a, b].map(|id| Revision::try_from(id).unwrap());
            prop_assert_eq!(a.cmp(&b), ra.cmp(&rb));
            prop_assert_eq!(ra.stream_id(), a);
            prop_assert_eq!(a.to_string().parse::<StreamId>().unwrap(), a);
        }
    }
}
