//! The streams, and the consumer groups that must have finished an entry before it may be trimmed.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use super::entry_reader::EntryReader;
use super::keys::{self, Key};
use super::lost::{LossWatch, Losses};
use super::position::removed;
use crate::config::redis::RedisConfig;
use crate::domain::entry::Entry;
use crate::domain::stream_id::StreamId;

/// The consumer group of hot-writer.
pub const HOT_WRITER: &str = "hot-writer";
/// The consumer group of warm-syncer.
pub const WARM_SYNCER: &str = "warm-syncer";
/// The consumer group of aggregator-admin.
pub const AGGREGATOR_ADMIN: &str = "aggregator-admin";

/// A stream of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Ticks of a partition, by feed handlers.
    Ticks(u16),
    /// Closed and amended 1-minute candles of a partition, by hot-writer.
    Candles(u16),
    /// Signals, by strategies.
    Signals,
    /// Minutes to compute again from `ticks`, by hot-writer and warm-syncer.
    Repairs,
    /// Times whose rollups must be refreshed, by warm-syncer and aggregator-admin.
    Rollups,
    /// Finished backups, by backup-runner.
    Backups,
    /// Dead letters, by whoever met them.
    Dead,
}

impl Stream {
    /// Every stream of a pipeline with `partitions`.
    pub fn all(partitions: u16) -> Vec<Self> {
        let partitioned = (0..partitions).flat_map(|p| [Self::Ticks(p), Self::Candles(p)]);
        partitioned.chain(Self::UNPARTITIONED).collect()
    }

    /// The streams that exist once.
    pub const UNPARTITIONED: [Self; 5] = [Self::Signals, Self::Repairs, Self::Rollups, Self::Backups, Self::Dead];

    /// The stream's key.
    pub fn key(self) -> Key {
        keys::stream(self)
    }

    /// The groups that read this stream.
    pub const fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Ticks(_) | Self::Signals => &[HOT_WRITER, WARM_SYNCER],
            Self::Candles(_) | Self::Dead => &[WARM_SYNCER],
            Self::Repairs | Self::Rollups | Self::Backups => &[AGGREGATOR_ADMIN],
        }
    }
}

/// The key without `stream:`: `ticks:0`, `signals`.
impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ticks(partition) => write!(f, "ticks:{partition}"),
            Self::Candles(partition) => write!(f, "candles:{partition}"),
            Self::Signals => f.write_str("signals"),
            Self::Repairs => f.write_str("repairs"),
            Self::Rollups => f.write_str("rollups"),
            Self::Backups => f.write_str("backups"),
            Self::Dead => f.write_str("dead"),
        }
    }
}

/// A key that is no stream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no stream of the pipeline")]
pub struct InvalidStream(String);

/// The stream of a key: `stream:ticks:0`.
impl FromStr for Stream {
    type Err = InvalidStream;

    fn from_str(key: &str) -> Result<Self, InvalidStream> {
        let partitioned = |name: &str| {
            let (kind, partition) = name.split_once(':')?;
            let partition = partition.parse().ok()?;
            match kind {
                "ticks" => Some(Self::Ticks(partition)),
                "candles" => Some(Self::Candles(partition)),
                _ => None,
            }
        };
        let unpartitioned = |name: &str| {
            Self::UNPARTITIONED
                .into_iter()
                .find(|stream| stream.to_string() == name)
        };
        key.strip_prefix("stream:")
            .and_then(|name| unpartitioned(name).or_else(|| partitioned(name)))
            .ok_or_else(|| InvalidStream(key.to_owned()))
    }
}

/// Fields of an entry to add.
pub type Fields = Vec<(&'static str, String)>;

/// The command that adds an entry.
pub fn add(stream: Stream, fields: &Fields) -> redis::Cmd {
    let mut command = cmd("XADD");
    command.arg(stream.key()).arg("*");
    for (name, value) in fields {
        command.arg(name).arg(value);
    }
    command
}

/// Adds an entry with fields of any name, as one that is put into its stream again. Returns its ID.
///
/// # Errors
/// When Redis can't be asked.
pub async fn add_again(
    conn: &mut impl ConnectionLike,
    stream: Stream,
    fields: &[(String, String)],
) -> RedisResult<String> {
    let mut command = cmd("XADD");
    command.arg(stream.key()).arg("*");
    for (name, value) in fields {
        command.arg(name).arg(value);
    }
    command.query_async(conn).await
}

/// How many entries `stream` holds.
///
/// # Errors
/// When Redis can't be asked.
pub async fn length(conn: &mut impl ConnectionLike, stream: Stream) -> RedisResult<u64> {
    cmd("XLEN").arg(stream.key()).query_async(conn).await
}

/// Adds entries to one stream, all of them or none, in their order.
///
/// # Errors
/// When Redis refuses one of them, with the reason for the first; then none was added. After an input or output error it
/// is not known whether they were.
pub async fn add_all(conn: &mut impl ConnectionLike, stream: Stream, entries: &[Fields]) -> RedisResult<()> {
    let mut transaction = redis::pipe();
    transaction.atomic();
    for fields in entries {
        transaction.add_command(add(stream, fields)).ignore();
    }
    transaction.exec_async(conn).await.map_err(|error| {
        // One cause says as much as the same from every entry.
        let causes = error.clone().into_server_errors();
        causes
            .and_then(|causes| causes.first().map(|(_, cause)| cause.clone().into()))
            .unwrap_or(error)
    })
}

/// The entries in `[from, to]`, at most `count`.
///
/// # Errors
/// When Redis can't be asked.
pub async fn range(
    conn: &mut impl ConnectionLike,
    stream: Stream,
    from: StreamId,
    to: StreamId,
    count: usize,
) -> RedisResult<Vec<Entry>> {
    let reply = cmd("XRANGE")
        .arg(stream.key())
        .arg(from.to_string())
        .arg(to.to_string())
        .arg("COUNT")
        .arg(count)
        .query_async(conn)
        .await?;
    super::reply::entries(reply)
}

/// A part of a stream, a page at a time.
pub struct Pages {
    stream: Stream,
    next: StreamId,
    to: StreamId,
}

const PAGE: usize = 5_000;

impl Pages {
    /// The entries in `[from, to]`.
    pub fn new(stream: Stream, from: StreamId, to: StreamId) -> Self {
        Self { stream, next: from, to }
    }

    /// The next page; `None` after the last.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub async fn next(&mut self, conn: &mut impl ConnectionLike) -> RedisResult<Option<Vec<Entry>>> {
        if self.next > self.to {
            return Ok(None);
        }
        let entries = range(conn, self.stream, self.next, self.to, PAGE).await?;
        self.next = entries.last().map_or(self.to, |last| last.id).next();
        Ok((!entries.is_empty()).then_some(entries))
    }
}

/// Reads one stream from entry to entry, outside of any group.
pub struct StreamReader {
    reader: EntryReader,
    stream: Stream,
    position: StreamId,
    watch: Option<LossWatch>,
}

impl StreamReader {
    /// Reads `stream` after `position`, waiting up to `longest` for entries.
    pub fn new(config: &RedisConfig, stream: Stream, position: StreamId, longest: Duration) -> Self {
        Self {
            reader: EntryReader::new(config, longest),
            stream,
            position,
            watch: None,
        }
    }

    /// Reports what is lost to `group`, whose one reader this is and whose position it began at.
    pub fn watching(mut self, config: &RedisConfig, group: &'static str, losses: Losses) -> Self {
        self.watch = Some(LossWatch::from(config, self.stream, group, self.position, losses));
        self
    }

    /// The next entries, at most `count`, waiting up to `block` for the first.
    ///
    /// # Errors
    /// When Redis can't be asked; reading again is safe.
    pub async fn next(&mut self, count: usize, block: Duration) -> RedisResult<Vec<Entry>> {
        if let Some(watch) = &mut self.watch {
            watch.check().await?;
        }
        let mut command = cmd("XREAD");
        command
            .arg("COUNT")
            .arg(count)
            .arg("BLOCK")
            .arg(block_ms(block))
            .arg("STREAMS")
            .arg(self.stream.key())
            .arg(self.position.to_string());
        let entries = self.reader.read(&command).await?;
        if let Some(last) = entries.last() {
            self.position = last.id;
            if let Some(watch) = &mut self.watch {
                watch.read(last.id, entries.len());
            }
        }
        Ok(entries)
    }
}

/// How long to wait, as Redis takes it: 0 would be for ever.
pub(super) fn block_ms(block: Duration) -> u64 {
    u64::try_from(block.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Creates `group` on `stream`, from the oldest entry kept, unless it is there. Says whether it was created. What was removed before is
/// not lost to it.
///
/// # Errors
/// When Redis can't be asked.
pub async fn create_group(conn: &mut impl ConnectionLike, stream: Stream, group: &str) -> RedisResult<bool> {
    let removed = removed(conn, stream).await?;
    let created: RedisResult<()> = cmd("XGROUP")
        .arg("CREATE")
        .arg(stream.key())
        .arg(group)
        .arg("0")
        .arg("MKSTREAM")
        .arg("ENTRIESREAD")
        .arg(removed)
        .query_async(conn)
        .await;
    match created {
        Ok(()) => Ok(true),
        Err(error) if error.code() == Some("BUSYGROUP") => Ok(false),
        Err(error) => Err(error),
    }
}
