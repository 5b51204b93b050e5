//! The streams of the pipeline with their consumer groups, and the commands on their entries.

use std::fmt;
use std::str::FromStr;

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use super::keys::{self, Key};
use super::reply;
use crate::domain::entry::{Entry, Fields};
use crate::domain::stream_id::StreamId;

/// Consumer group of hot-writer.
pub const HOT_WRITER: &str = "hot-writer";
/// Consumer group of warm-syncer.
pub const WARM_SYNCER: &str = "warm-syncer";
/// Consumer group of aggregator-admin.
pub const AGGREGATOR_ADMIN: &str = "aggregator-admin";

/// A stream of the pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stream {
    /// Ticks of a partition, added by feed handlers.
    Ticks(u16),
    /// Closed and amended 1-minute candles of a partition, added by hot-writer.
    Candles(u16),
    /// Signals, added by strategies.
    Signals,
    /// Heartbeats of feeds, added by feed handlers.
    Feeds,
    /// Minutes to compute again from `ticks`, added by hot-writer and warm-syncer.
    Repairs,
    /// Time ranges whose rollups must be refreshed, added by warm-syncer and aggregator-admin.
    Rollups,
    /// Finished backups, added by backup-runner.
    Backups,
    /// Dead letters, added by every worker.
    Dead,
}

impl Stream {
    /// Returns every stream of a pipeline with `partitions`.
    pub fn all(partitions: u16) -> Vec<Self> {
        let partitioned = (0..partitions).flat_map(Self::of_partition);
        partitioned.chain(Self::UNPARTITIONED).collect()
    }

    /// Returns the streams of one partition.
    pub const fn of_partition(partition: u16) -> [Self; 2] {
        [Self::Ticks(partition), Self::Candles(partition)]
    }

    /// Streams without partitions.
    pub const UNPARTITIONED: [Self; 6] = [
        Self::Signals,
        Self::Feeds,
        Self::Repairs,
        Self::Rollups,
        Self::Backups,
        Self::Dead,
    ];

    /// Returns the key of the stream.
    pub fn key(self) -> Key {
        keys::stream(self)
    }

    /// Returns the groups that must finish an entry before it is trimmed.
    pub const fn groups(self) -> &'static [&'static str] {
        match self {
            Self::Ticks(_) | Self::Signals => &[HOT_WRITER, WARM_SYNCER],
            Self::Candles(_) | Self::Feeds | Self::Dead => &[WARM_SYNCER],
            Self::Repairs | Self::Rollups | Self::Backups => &[AGGREGATOR_ADMIN],
        }
    }
}

/// Writes the key without `stream:`, as in `ticks:0` or `signals`.
impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ticks(partition) => write!(f, "ticks:{partition}"),
            Self::Candles(partition) => write!(f, "candles:{partition}"),
            Self::Signals => f.write_str("signals"),
            Self::Feeds => f.write_str("feeds"),
            Self::Repairs => f.write_str("repairs"),
            Self::Rollups => f.write_str("rollups"),
            Self::Backups => f.write_str("backups"),
            Self::Dead => f.write_str("dead"),
        }
    }
}

/// A key that does not belong to a stream of the pipeline.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a stream of the pipeline")]
pub struct InvalidStream(String);

/// Parses a key, such as `stream:ticks:0`.
impl FromStr for Stream {
    type Err = InvalidStream;

    fn from_str(key: &str) -> Result<Self, InvalidStream> {
        let partition = key.rsplit(':').next().and_then(|partition| partition.parse().ok());
        let partitioned = partition.into_iter().flat_map(Self::of_partition);
        partitioned
            .chain(Self::UNPARTITIONED)
            .find(|stream| Some(stream.to_string().as_str()) == key.strip_prefix("stream:"))
            .ok_or_else(|| InvalidStream(key.to_owned()))
    }
}

/// Returns the command that adds an entry.
pub fn add<N: AsRef<str>>(stream: Stream, fields: &[(N, String)]) -> redis::Cmd {
    let mut command = cmd("XADD");
    command.arg(stream.key()).arg("*");
    for (name, value) in fields {
        command.arg(name.as_ref()).arg(value);
    }
    command
}

/// Adds entries to one stream in their order, all of them or none.
///
/// # Errors
/// An error from Redis is the reason for the first refused entry; no entry was added. After an I/O error it is unknown
/// whether the entries were added.
pub async fn add_all(conn: &mut impl ConnectionLike, stream: Stream, entries: &[Fields]) -> RedisResult<()> {
    let mut transaction = redis::pipe();
    transaction.atomic();
    for fields in entries {
        transaction.add_command(add(stream, fields)).ignore();
    }
    transaction.exec_async(conn).await.map_err(|error| {
        // Redis repeats the same cause for every entry.
        let causes = error.clone().into_server_errors();
        causes
            .and_then(|causes| causes.first().map(|(_, cause)| cause.clone().into()))
            .unwrap_or(error)
    })
}

/// Returns the number of entries in `stream`.
pub async fn length(conn: &mut impl ConnectionLike, stream: Stream) -> RedisResult<u64> {
    cmd("XLEN").arg(stream.key()).query_async(conn).await
}

/// Reads the entries in `[from, to]`, at most `count`.
pub async fn range(
    conn: &mut impl ConnectionLike,
    stream: Stream,
    from: StreamId,
    to: StreamId,
    count: usize,
) -> RedisResult<Vec<Entry>> {
    let entries = cmd("XRANGE")
        .arg(stream.key())
        .arg(from.to_string())
        .arg(to.to_string())
        .arg("COUNT")
        .arg(count)
        .query_async(conn)
        .await?;
    reply::entries(entries)
}

/// Reads a range of a stream in pages.
pub struct Pages {
    stream: Stream,
    next: StreamId,
    to: StreamId,
    count: usize,
}

/// Number of entries in the first page, and in one after large entries.
const FIRST_PAGE: usize = 64;
/// Maximum number of entries in a page.
const PAGE: usize = 5_000;
/// Size of a page up to which the next one may be larger.
const PAGE_BYTES: usize = 4 << 20;

impl Pages {
    /// Creates a reader of the entries in `[from, to]`.
    pub fn new(stream: Stream, from: StreamId, to: StreamId) -> Self {
        Self {
            stream,
            next: from,
            to,
            count: FIRST_PAGE,
        }
    }

    /// Reads the next page; `None` after the last.
    pub async fn next(&mut self, conn: &mut impl ConnectionLike) -> RedisResult<Option<Vec<Entry>>> {
        if self.next > self.to {
            return Ok(None);
        }
        let entries = range(conn, self.stream, self.next, self.to, self.count).await?;
        let size_bytes: usize = entries.iter().map(Entry::size_bytes).sum();
        self.count = match size_bytes {
            0..=PAGE_BYTES => (self.count * 4).min(PAGE),
            _ => FIRST_PAGE,
        };
        self.next = entries.last().map_or(self.to, |last| last.id).next();
        Ok((!entries.is_empty()).then_some(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_stream() {
        for stream in Stream::all(3) {
            assert_eq!(Stream::from_str(&format!("stream:{stream}")), Ok(stream));
        }
        for key in [
            "ticks:0",
            "stream:ticks",
            "stream:ticks:65536",
            "stream:signals:0",
            "stream:open:0",
        ] {
            assert_eq!(Stream::from_str(key), Err(InvalidStream(key.to_owned())));
        }
    }
}
