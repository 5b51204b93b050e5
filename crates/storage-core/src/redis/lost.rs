//! Entries that others removed from a stream before a group had read them: by `XADD … MAXLEN`, XTRIM or XDEL.
//!
//! A stream knows how many entries were ever added, and a group how many it has read. What was added after the group's position
//! and is not there is lost. Redis counts it to what the group has read in the same step, so that it is counted once, by whichever
//! replica and however often they start again.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, Value, cmd, pipe};
use tokio::time::Instant;

use super::connection::Connection;
use super::stream::Stream;
use super::{functions, keys, reply};
use crate::config::redis::RedisConfig;
use crate::domain::stream_id::StreamId;
use crate::domain::time::rfc3339;
use crate::redis::trim::now_ms;
use crate::telemetry::metrics::Counter;
use crate::telemetry::readiness::Readiness;

/// How often a reader compares.
const INTERVAL: Duration = Duration::from_secs(1);
/// For how long after a loss a worker is not ready.
const ALARM: Duration = Duration::from_secs(60);
/// How often a comparison is repeated when the position moved meanwhile.
const ATTEMPTS: usize = 3;

/// Reports lost entries of every stream that a worker reads. Clones share what was reported.
#[derive(Clone, Debug)]
pub struct Losses {
    counter: &'static Counter<0>,
    readiness: Readiness,
    reported: Arc<Mutex<HashMap<Stream, Reported>>>,
}

#[derive(Debug)]
struct Reported {
    entries: u64,
    since_ms: u64,
    last: Instant,
}

/// Lost entries of a group, as Redis keeps the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The stream, without `stream:`.
    pub stream: String,
    /// The group that had not read them.
    pub group: String,
    /// How many there were so far.
    pub entries: u64,
    /// When the last of them were missed, in ms since 1970.
    pub last_ms: u64,
}

impl Losses {
    /// Losses that `counter` counts and that show in `readiness`.
    pub fn new(counter: &'static Counter<0>, readiness: &Readiness) -> Self {
        Self {
            counter,
            readiness: readiness.clone(),
            reported: Arc::default(),
        }
    }

    /// Counts and logs entries of `stream` that are lost to `group`, and notes them in Redis.
    pub(super) async fn report(&self, conn: &mut Connection, stream: Stream, group: &str, lost: &Lost) {
        let Lost {
            entries,
            position,
            first_left,
        } = lost;
        self.counter.increment(*entries);
        let first_left = first_left.map_or_else(|| "none".to_owned(), |id| id.to_string());
        tracing::error!(%stream, group, lost = entries, %position, first_left,
            "entries were removed from the stream before they were read; find who trims or deletes there");
        let at_ms = match note(conn, stream, group, *entries).await {
            Ok(at_ms) => at_ms,
            Err(error) => {
                tracing::warn!(%stream, group, %error, "could not note the lost entries in Redis, so `status` lacks them");
                position.ms
            }
        };
        self.alarm(stream, *entries, at_ms);
    }

    fn alarm(&self, stream: Stream, entries: u64, at_ms: u64) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = reported.entry(stream).or_insert_with(|| Reported {
            entries: 0,
            since_ms: at_ms,
            last: Instant::now(),
        });
        entry.entries += entries;
        entry.last = Instant::now();
        let since = rfc3339(i64::try_from(entry.since_ms.saturating_mul(1_000)).unwrap_or(i64::MAX));
        let reason = format!(
            "{} entries were removed from stream:{stream} unread since {since}; find who trims or deletes there",
            entry.entries
        );
        self.readiness.fail(condition(stream), reason);
    }

    /// Ends the alarm about `stream` when nothing was lost for a while.
    fn settle(&self, stream: Stream) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        if reported
            .get(&stream)
            .is_some_and(|reported| reported.last.elapsed() >= ALARM)
        {
            reported.remove(&stream);
            self.readiness.forget(&condition(stream));
        }
    }

    /// Leaves `stream` to another replica, which does not know what was reported: the alarm ends here, in its time.
    pub fn leave(&self, stream: Stream) {
        let losses = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ALARM).await;
            losses.settle(stream);
        });
    }
}

fn condition(stream: Stream) -> String {
    format!("lost entries of {stream}")
}

/// Entries that a group lost.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) entries: u64,
    /// They came after this entry.
    pub(super) position: StreamId,
    /// The first entry after them, where one is left.
    pub(super) first_left: Option<StreamId>,
}

/// Compares from time to time what was added to a stream with what a group has read and what is left.
pub(super) struct LossWatch {
    conn: Connection,
    stream: Stream,
    group: &'static str,
    losses: Losses,
    /// What was read: the last entry of each read and how many entries there were by then; first the group's position. Empty where
    /// Redis hands entries out and knows itself.
    read: VecDeque<(StreamId, u64)>,
    /// The last entry up to which everything was accounted for.
    checked: StreamId,
    due: Instant,
}

impl LossWatch {
    /// Watches for a group with one reader, which begins at `position`.
    pub(super) fn from(
        config: &RedisConfig,
        stream: Stream,
        group: &'static str,
        position: StreamId,
        losses: Losses,
    ) -> Self {
        Self {
            read: VecDeque::from([(position, 0)]),
            checked: position,
            ..Self::handed_out(config, stream, group, losses)
        }
    }

    /// Watches for a group whose entries Redis hands out.
    pub(super) fn handed_out(config: &RedisConfig, stream: Stream, group: &'static str, losses: Losses) -> Self {
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

    /// Notes a read of `count` entries that ended with `last`.
    pub(super) fn read(&mut self, last: StreamId, count: usize) {
        let before = self.read.back().map_or(0, |(_, read)| *read);
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        self.read.push_back((last, before.saturating_add(count)));
    }

    /// Compares, when it is time, and reports what is lost.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub(super) async fn check(&mut self) -> RedisResult<()> {
        if self.due > Instant::now() {
            return Ok(());
        }
        self.due = Instant::now() + INTERVAL;
        if let Some(lost) = self.compare().await? {
            self.losses.report(&mut self.conn, self.stream, self.group, &lost).await;
        }
        self.losses.settle(self.stream);
        Ok(())
    }

    async fn compare(&mut self) -> RedisResult<Option<Lost>> {
        for _ in 0..ATTEMPTS {
            let known = self.read.front().zip(self.read.back());
            let known = known.map(|((at, read), (after, in_all))| (*at, *after, in_all - read));
            let command = match known {
                Some((position, after, ahead)) => functions::lost(self.stream, self.group, position, after, ahead),
                None => functions::lost_of_handed_out(self.stream, self.group, self.checked),
            };
            let (at, entries, first_left): (String, u64, String) = command.query_async(&mut self.conn).await?;
            let at = reply::stream_id(Value::SimpleString(at))?;
            let Some((position, after, _)) = known else {
                let position = std::mem::replace(&mut self.checked, at);
                return Ok(lost(entries, position.max(at), &first_left));
            };
            if at == position {
                let checked = std::mem::replace(&mut self.checked, after);
                // Where the next entry is not known to be behind what was read, they may lie before it.
                let position = if first_left.is_empty() { checked } else { after };
                return Ok(lost(entries, position, &first_left));
            }
            match self.read.iter().position(|(id, _)| *id == at) {
                Some(moved) => drop(self.read.drain(..moved)),
                // Another reader or an operator has moved it.
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

fn lost(entries: u64, position: StreamId, first_left: &str) -> Option<Lost> {
    (entries > 0).then(|| Lost {
        entries,
        position,
        first_left: first_left.parse().ok(),
    })
}

/// Adds to the record in Redis. Returns the time there, in ms since 1970.
async fn note(conn: &mut Connection, stream: Stream, group: &str, entries: u64) -> RedisResult<u64> {
    let at_ms = now_ms(conn).await?;
    let (key, field) = (keys::lost(), format!("{stream} {group}"));
    pipe()
        .add_command(cmd("HINCRBY").arg(&key).arg(&field).arg(entries).clone())
        .add_command(cmd("HSET").arg(&key).arg(format!("{field} last")).arg(at_ms).clone())
        .exec_async(conn)
        .await?;
    Ok(at_ms)
}

/// Every group that has lost entries.
///
/// # Errors
/// When Redis can't be asked.
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

    static LOST: Counter<0> = Counter::new("test_lost_entries_total", "", []);

    #[tokio::test(start_paused = true)]
    async fn a_worker_is_not_ready_until_nothing_was_lost_for_a_minute() {
        let readiness = Readiness::default();
        let (losses, stream) = (Losses::new(&LOST, &readiness), Stream::Ticks(3));
        losses.alarm(stream, 899, 1_700_000_000_000);
        tokio::time::advance(ALARM - INTERVAL).await;
        losses.alarm(stream, 1, 1_700_000_059_000);
        tokio::time::advance(ALARM - INTERVAL).await;
        losses.settle(stream);
        assert_eq!(
            readiness.problems(),
            [
                "lost entries of ticks:3: 900 entries were removed from stream:ticks:3 unread since 2023-11-14T22:13:20Z; \
              find who trims or deletes there"
            ]
        );
        tokio::time::advance(INTERVAL).await;
        losses.settle(stream);
        assert!(readiness.problems().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_another_replica_takes_over_keeps_its_alarm_for_a_minute() {
        let readiness = Readiness::default();
        let (losses, stream) = (Losses::new(&LOST, &readiness), Stream::Ticks(3));
        losses.alarm(stream, 300, 1_700_000_000_000);
        losses.leave(stream);
        tokio::time::sleep(ALARM - INTERVAL).await;
        assert_eq!(readiness.problems().len(), 1);
        tokio::time::sleep(2 * INTERVAL).await;
        assert!(readiness.problems().is_empty());
    }
}
