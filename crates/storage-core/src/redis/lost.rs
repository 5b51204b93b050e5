//! Lost entries: another client removed them from a stream, by `XADD … MAXLEN`, XTRIM or XDEL, before a group had read
//! them.
//!
//! Redis counts the entries ever added to a stream and the entries that a group has read. Entries that were added after
//! the group's position but are not in the stream are lost. `storage_lost` finds them and adds them to the number of
//! entries read in one step, so that each is counted once, whichever replica finds it and however often replicas
//! restart.
//!
//! The readers of the pipeline do so for their own groups, and aggregator-admin for external ones
//! ([`of_external_group`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, Value, cmd, pipe};
use tokio::time::Instant;

use super::clock::now_ms;
use super::connection::Connection;
use super::stream::Stream;
use super::{functions, keys, reply};
use crate::config::redis::RedisConfig;
use crate::domain::stream_id::StreamId;
use crate::domain::time::{ms_to_us, rfc3339};
use crate::telemetry::metrics::Counter;
use crate::telemetry::readiness::Readiness;

/// Time between two checks.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time after a loss during which the worker is not ready.
const ALARM: Duration = Duration::from_secs(60);
/// Number of comparisons per check if the position moves meanwhile.
const ATTEMPTS: usize = 3;

/// Reports the lost entries of every stream that a worker reads. Clones share their state.
#[derive(Clone, Debug)]
pub struct Losses {
    counter: &'static Counter<0>,
    readiness: Readiness,
    alarms: Arc<Mutex<HashMap<Stream, Alarm>>>,
}

#[derive(Debug)]
struct Alarm {
    entries: u64,
    since_ms: u64,
    last: Instant,
}

/// Record of a group's lost entries in Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Name of the stream without `stream:`.
    pub stream: String,
    /// Group that had not read the entries.
    pub group: String,
    /// Number of entries lost so far.
    pub entries: u64,
    /// Time at which the last loss was found, in ms since 1970.
    pub last_ms: u64,
}

impl Losses {
    /// Creates a reporter that increments `counter` and makes `readiness` fail.
    pub fn new(counter: &'static Counter<0>, readiness: &Readiness) -> Self {
        Self {
            counter,
            readiness: readiness.clone(),
            alarms: Arc::default(),
        }
    }

    /// Counts, logs and records in Redis entries of `stream` that are lost to `group`.
    pub(super) async fn report(&self, conn: &mut Connection, stream: Stream, group: &str, lost: &LostEntries) {
        let LostEntries {
            entries,
            position,
            first_left,
        } = lost;
        self.counter.increment(*entries);
        let first_left = first_left.map_or_else(|| "none".to_owned(), |id| id.to_string());
        tracing::error!(%stream, group, lost = entries, %position, first_left,
            "entries were removed from the stream before they were read; find the client that trims it or deletes \
             from it");
        let at_ms = match record(conn, stream, group, *entries).await {
            Ok(at_ms) => at_ms,
            Err(error) => {
                tracing::warn!(%stream, group, %error,
                    "could not record the lost entries in Redis; `aggregator-admin status` does not show them");
                position.ms
            }
        };
        self.raise(stream, *entries, at_ms);
    }

    /// Makes the worker not ready for a minute, because `entries` of `stream`, which it does not read, were lost at
    /// `at_ms`.
    pub fn alarm(&self, stream: Stream, entries: u64, at_ms: u64) {
        self.raise(stream, entries, at_ms);
        self.release(stream);
    }

    fn raise(&self, stream: Stream, entries: u64, at_ms: u64) {
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        let alarm = alarms.entry(stream).or_insert_with(|| Alarm {
            entries: 0,
            since_ms: at_ms,
            last: Instant::now(),
        });
        alarm.entries += entries;
        alarm.last = Instant::now();
        let since = rfc3339(ms_to_us(alarm.since_ms));
        let reason = format!(
            "{} entries were removed from stream:{stream} unread since {since}; find the client that trims it or \
             deletes from it",
            alarm.entries
        );
        self.readiness.fail(condition(stream), reason);
    }

    /// Clears the alarm about `stream` if its last loss is older than [`ALARM`].
    fn clear(&self, stream: Stream) {
        let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
        if alarms.get(&stream).is_some_and(|alarm| alarm.last.elapsed() >= ALARM) {
            alarms.remove(&stream);
            self.readiness.forget(&condition(stream));
        }
    }

    /// Clears the alarm about `stream` after its time. Call it when this replica releases the stream, because the next
    /// owner does not know of the alarm.
    pub fn release(&self, stream: Stream) {
        let losses = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ALARM).await;
            losses.clear(stream);
        });
    }
}

fn condition(stream: Stream) -> String {
    format!("lost entries of {stream}")
}

/// Entries that a group lost.
#[derive(Debug, PartialEq, Eq)]
pub struct LostEntries {
    /// Number of entries.
    pub entries: u64,
    /// Last entry before them.
    pub position: StreamId,
    /// First entry after them that is left.
    pub first_left: Option<StreamId>,
}

/// Finds the entries that other clients removed before the external `group` had read them, each once. `checked` is the
/// position of the group at the last call. A group that no longer exists has lost nothing.
pub async fn of_external_group(
    conn: &mut impl ConnectionLike,
    stream: Stream,
    group: &str,
    checked: StreamId,
) -> RedisResult<Option<LostEntries>> {
    let command = functions::lost_of_delivering_group(stream, group, checked);
    let (at, entries, first_left): (String, u64, String) = match command.query_async(conn).await {
        Err(error) if error.code() == Some("NOGROUP") || error.to_string().contains("no such key") => return Ok(None),
        answer => answer?,
    };
    Ok(lost(entries, reply::stream_id(Value::SimpleString(at))?, &first_left))
}

/// Periodically compares the entries added to a stream with those that a group has read and those that are left.
pub(super) struct LossDetector {
    conn: Connection,
    stream: Stream,
    group: &'static str,
    losses: Losses,
    /// Last entry of each read, with the number of entries read by then; the first is the position of the group. Empty
    /// for a group whose entries Redis delivers, because Redis counts these itself.
    read: VecDeque<(StreamId, u64)>,
    /// Last entry of the previous comparison.
    checked: StreamId,
    due: Instant,
}

impl LossDetector {
    /// Creates a detector for a group with one reader, which starts at `position` and moves the position itself.
    pub(super) fn by_position(
        config: &RedisConfig,
        stream: Stream,
        group: &'static str,
        position: StreamId,
        losses: Losses,
    ) -> Self {
        Self {
            read: VecDeque::from([(position, 0)]),
            checked: position,
            ..Self::of_delivering_group(config, stream, group, losses)
        }
    }

    /// Creates a detector for a group whose entries Redis delivers to consumers.
    pub(super) fn of_delivering_group(
        config: &RedisConfig,
        stream: Stream,
        group: &'static str,
        losses: Losses,
    ) -> Self {
        Self {
            conn: Connection::ordinary(config),
            stream,
            group,
            losses,
            read: VecDeque::new(),
            checked: StreamId::START,
            due: Instant::now(),
        }
    }

    /// Records a read of `count` entries that ended with `last`.
    pub(super) fn read(&mut self, last: StreamId, count: usize) {
        let before = self.read.back().map_or(0, |(_, read)| *read);
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.read.push_back((last, before.saturating_add(count)));
    }

    /// Reports lost entries, at most once per [`INTERVAL`].
    pub(super) async fn check(&mut self) -> RedisResult<()> {
        if self.due > Instant::now() {
            return Ok(());
        }
        self.due = Instant::now() + INTERVAL;
        if let Some(lost) = self.compare().await? {
            self.losses.report(&mut self.conn, self.stream, self.group, &lost).await;
        }
        self.losses.clear(self.stream);
        Ok(())
    }

    async fn compare(&mut self) -> RedisResult<Option<LostEntries>> {
        for _ in 0..ATTEMPTS {
            let known = self.read.front().zip(self.read.back());
            let known = known.map(|((at, read), (after, in_all))| (*at, *after, in_all - read));
            let command = match known {
                Some((position, after, ahead)) => functions::lost(self.stream, self.group, position, after, ahead),
                None => functions::lost_of_delivering_group(self.stream, self.group, self.checked),
            };
            let (at, entries, first_left): (String, u64, String) = command.query_async(&mut self.conn).await?;
            let at = reply::stream_id(Value::SimpleString(at))?;
            let Some((position, after, _)) = known else {
                let position = std::mem::replace(&mut self.checked, at);
                return Ok(lost(entries, position.max(at), &first_left));
            };
            if at == position {
                let checked = std::mem::replace(&mut self.checked, after);
                // If no entry after `after` is left, the lost entries may lie before `after`.
                let position = if first_left.is_empty() { checked } else { after };
                return Ok(lost(entries, position, &first_left));
            }
            match self.read.iter().position(|(id, _)| *id == at) {
                Some(moved) => drop(self.read.drain(..moved)),
                // Another reader or an operator has moved the position.
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

fn lost(entries: u64, position: StreamId, first_left: &str) -> Option<LostEntries> {
    (entries > 0).then(|| LostEntries {
        entries,
        position,
        first_left: first_left.parse().ok(),
    })
}

/// Adds to the record in Redis and returns the time of Redis in ms since 1970.
pub async fn record(conn: &mut impl ConnectionLike, stream: Stream, group: &str, entries: u64) -> RedisResult<u64> {
    let at_ms = now_ms(conn).await?;
    let (key, field) = (keys::lost(), format!("{stream} {group}"));
    pipe()
        .add_command(cmd("HINCRBY").arg(&key).arg(&field).arg(entries).clone())
        .add_command(cmd("HSET").arg(&key).arg(format!("{field} last")).arg(at_ms).clone())
        .exec_async(conn)
        .await?;
    Ok(at_ms)
}

/// Reads the records of all groups that have lost entries.
pub async fn records(conn: &mut impl ConnectionLike) -> RedisResult<Vec<Record>> {
    let fields: BTreeMap<String, u64> = cmd("HGETALL").arg(keys::lost()).query_async(conn).await?;
    let record = |(name, entries): (&String, &u64)| {
        let (stream, group) = name.split_once(' ')?;
        let last_ms = fields.get(&format!("{name} last"))?;
        Some(Record {
            stream: stream.to_owned(),
            group: group.to_owned(),
            entries: *entries,
            last_ms: *last_ms,
        })
    };
    Ok(fields.iter().filter_map(record).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    static LOST: Counter<0> = Counter::new("test_lost_entries_total", "", &[]);

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_not_ready_until_a_minute_after_the_last_loss() {
        let readiness = Readiness::default();
        let (losses, stream) = (Losses::new(&LOST, &readiness), Stream::Ticks(3));
        losses.raise(stream, 899, 1_700_000_000_000);
        tokio::time::advance(ALARM - INTERVAL).await;
        losses.raise(stream, 1, 1_700_000_059_000);
        tokio::time::advance(ALARM - INTERVAL).await;
        losses.clear(stream);
        assert_eq!(
            readiness.problems(),
            [
                "lost entries of ticks:3: 900 entries were removed from stream:ticks:3 unread since \
                 2023-11-14T22:13:20Z; \
              find the client that trims it or deletes from it"
            ]
        );
        tokio::time::advance(INTERVAL).await;
        losses.clear(stream);
        assert!(readiness.problems().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_alarm_of_a_released_partition_is_cleared_after_a_minute() {
        let readiness = Readiness::default();
        let (losses, stream) = (Losses::new(&LOST, &readiness), Stream::Ticks(3));
        losses.raise(stream, 300, 1_700_000_000_000);
        losses.release(stream);
        tokio::time::sleep(ALARM - INTERVAL).await;
        assert_eq!(readiness.problems().len(), 1);
        tokio::time::sleep(2 * INTERVAL).await;
        assert!(readiness.problems().is_empty());
    }
}
