//! Looks at the streams: what is known of a stream and of its groups at a time. A stream that is deleted or evicted
//! takes its groups with it, so only the last look at it tells what they had not finished.
//!
//! The looks are kept in Redis, so that another replica of aggregator-admin continues where one stops.

use std::collections::BTreeMap;

use redis::aio::ConnectionLike;
use redis::{FromRedisValue, RedisResult, Value, cmd};
use serde::{Deserialize, Serialize};

use super::keys;
use super::position::{info, positions};
use super::reply;
use super::stream::Stream;
use crate::domain::stream_id::StreamId;

/// Looks by stream, whose name is without `stream:`.
pub type Looks = BTreeMap<String, Look>;

/// A stream at the time of a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Time of the look in ms since 1970.
    pub at_ms: u64,
    /// Number of entries ever added to the stream.
    pub added: u64,
    /// Number of entries in the stream.
    pub length: u64,
    /// First entry of the stream.
    pub first: Option<StreamId>,
    /// Last entry ever added to the stream.
    pub last: StreamId,
    /// Groups by name.
    pub groups: BTreeMap<String, GroupLook>,
}

/// A group at the time of a look.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupLook {
    /// Last entry that was delivered to the group.
    pub position: StreamId,
    /// Number of entries that the group had not finished; `None` if Redis does not know it.
    pub unfinished: Option<u64>,
}

impl Look {
    /// Looks at `stream`; `None` if it does not exist.
    pub async fn at(conn: &mut impl ConnectionLike, stream: Stream, at_ms: u64) -> RedisResult<Option<Self>> {
        let groups = positions(conn, stream).await?;
        let mut fields = match info(conn, stream).await {
            Err(error) if error.to_string().contains("no such key") => return Ok(None),
            fields => fields?,
        };
        let mut take = |name: &str| fields.remove(name).unwrap_or(Value::Nil);
        let first = reply::stream_id(take("recorded-first-entry-id"))?;
        let groups = groups.into_iter().map(|group| {
            let look = GroupLook {
                position: group.delivered,
                unfinished: group.lag.map(|lag| lag + group.pending),
            };
            (group.group, look)
        });
        Ok(Some(Self {
            at_ms,
            added: u64::from_redis_value(take("entries-added"))?,
            length: u64::from_redis_value(take("length"))?,
            first: (first > StreamId::START).then_some(first),
            last: reply::stream_id(take("last-generated-id"))?,
            groups: groups.collect(),
        }))
    }

    /// Returns `true` if the stream was deleted or evicted before the look `now`, which is `None` if it does not exist.
    ///
    /// A stream that continues holds its earlier entries or counts them as removed; one that was created again does
    /// neither. A stream of a Redis that has lost its last entries in a crash or a failover continues, too: it ends
    /// before, or counts as removed what was removed earlier.
    pub fn was_deleted(&self, now: Option<&Self>) -> bool {
        let Some(now) = now else {
            return self.added > 0;
        };
        let is_earlier = now.last > StreamId::START && now.last < self.last;
        let holds_earlier = now.first.is_some_and(|first| first <= self.last);
        let lacks_removed = now.removed() < self.removed() || self.removed() == 0;
        !is_earlier && !holds_earlier && lacks_removed && now.removed() < self.added
    }

    fn removed(&self) -> u64 {
        self.added.saturating_sub(self.length)
    }
}

/// Reads the last looks; none if they are of another version.
pub async fn stored(conn: &mut impl ConnectionLike) -> RedisResult<Looks> {
    let json: Option<String> = cmd("GET").arg(keys::looks()).query_async(conn).await?;
    Ok(json
        .and_then(|json| serde_json::from_str(&json).ok())
        .unwrap_or_default())
}

/// Stores looks in place of the earlier ones.
pub async fn store(conn: &mut impl ConnectionLike, looks: &Looks) -> RedisResult<()> {
    let json = serde_json::json!(looks).to_string();
    cmd("SET").arg(keys::looks()).arg(json).query_async(conn).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream that has `length` of `added` entries, of which each has its number as ID.
    fn look(added: u64, length: u64) -> Look {
        Look {
            at_ms: 0,
            added,
            length,
            first: (length > 0).then(|| StreamId::at_ms(added - length + 1)),
            last: StreamId::at_ms(added),
            groups: BTreeMap::new(),
        }
    }

    /// The stream was created again, and `added` entries were added after the time `ms`.
    fn created_again(ms: u64, added: u64) -> Look {
        Look {
            first: (added > 0).then(|| StreamId::at_ms(ms + 1)),
            last: StreamId::at_ms(if added > 0 { ms + added } else { 0 }),
            ..look(added, added)
        }
    }

    #[test]
    fn a_stream_that_goes_on_or_is_trimmed_was_not_deleted() {
        for (added, length) in [(0, 0), (5, 5), (9, 3), (9, 0)] {
            for (more, left) in [(0, 0), (0, length), (1, length + 1), (40, 0), (40, 40)] {
                let now = look(added + more, left);
                assert!(!look(added, length).was_deleted(Some(&now)), "{added} {length} {now:?}");
            }
        }
    }

    #[test]
    fn a_stream_that_is_gone_or_was_created_again_was_deleted() {
        for (added, length) in [(5, 5), (900, 10), (900, 0)] {
            let before = look(added, length);
            assert!(before.was_deleted(None));
            for more in [0, 1, 2_000] {
                let now = created_again(1_000, more);
                assert!(before.was_deleted(Some(&now)), "{added} {length} {now:?}");
            }
        }
        assert!(!look(0, 0).was_deleted(None), "it had no entries");
    }

    #[test]
    fn a_redis_that_lost_its_last_entries_has_deleted_no_stream() {
        let before = look(900, 10);
        assert!(!before.was_deleted(Some(&look(890, 0))), "it ends earlier");
        let mut trimmed = look(890, 0);
        trimmed.added += 1;
        trimmed.length = 1;
        trimmed.last = StreamId::at_ms(901);
        trimmed.first = Some(trimmed.last);
        assert!(!before.was_deleted(Some(&trimmed)), "it counts what was removed");
    }
}
