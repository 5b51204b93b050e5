//! The Redis Function library `redis/functions.lua`: loading it, checking its version, and the commands that call it.

use redis::aio::ConnectionLike;
use redis::{Cmd, FromRedisValue, ParsingError, RedisResult, ToRedisArgs, Value, cmd, pipe};

use super::connection::Connection;
use super::keys::{Channel, Key};
use super::reply;
use super::stream::Stream;
use crate::domain::entry::Fields;
use crate::domain::stream_id::{Revision, StreamId};
use crate::domain::symbol::Symbol;

const LIBRARY: &str = include_str!("../../../../redis/functions.lua");

/// Version of the library in this build.
pub const VERSION: i64 = version_of(LIBRARY);

/// Error of [`check`].
#[derive(Debug, thiserror::Error)]
pub enum FunctionsError {
    /// The library is not loaded.
    #[error("the functions of the pipeline are not loaded in Redis; run `aggregator-admin migrate`")]
    Missing,
    /// An older version is loaded.
    #[error("the functions in Redis are version {found}, this build needs {VERSION}; run `aggregator-admin migrate`")]
    Old {
        /// Version of the loaded library.
        found: i64,
    },
    /// The version could not be read.
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
}

/// Loads the library and replaces an older one.
pub async fn load(conn: &mut impl ConnectionLike) -> RedisResult<()> {
    cmd("FUNCTION")
        .arg("LOAD")
        .arg("REPLACE")
        .arg(LIBRARY)
        .query_async(conn)
        .await
}

/// Checks that every master has loaded the library in this build's version or a newer one.
pub async fn check(conn: &mut Connection) -> Result<(), FunctionsError> {
    let mut version = cmd("FCALL_RO");
    version.arg("storage_version").arg(0);
    match conn.of_every_master::<i64>(&version).await {
        Ok(found) => match found.into_iter().min() {
            Some(found) if found < VERSION => Err(FunctionsError::Old { found }),
            _ => Ok(()),
        },
        Err(error) if error.to_string().contains("Function not found") => Err(FunctionsError::Missing),
        Err(error) => Err(error.into()),
    }
}

/// Expiry of a hash written by [`put`].
#[derive(Clone, Copy, Debug)]
pub enum Expiry {
    /// Time after this write, in ms.
    AfterMs(i64),
    /// Time in ms since 1970.
    AtMs(i64),
}

/// Returns the command that writes a whole hash, sets its expiry and publishes a message, unless the hash has a newer
/// revision.
pub fn put(key: &Key, revision: Revision, expiry: Expiry, publish: Option<(&Channel, &str)>, fields: &Fields) -> Cmd {
    let mut command = call("storage_put", key, revision.as_i64());
    match expiry {
        Expiry::AfterMs(ms) => command.arg("PEXPIRE").arg(ms),
        Expiry::AtMs(ms) => command.arg("PEXPIREAT").arg(ms),
    };
    match publish {
        Some((channel, message)) => command.arg(channel).arg(message),
        None => command.arg("").arg(""),
    };
    command.arg(fields);
    command
}

/// A hash to write by `storage_put_all`.
#[derive(Clone, Debug)]
pub struct Put {
    /// Key of the hash.
    pub key: Key,
    /// Revision of the hash.
    pub revision: Revision,
    /// Revision of the hash that `fields` changes; `None` if they are a whole hash.
    pub base: Option<Revision>,
    /// TTL in ms.
    pub ttl_ms: i64,
    /// `true` if the TTL begins again. A new key gets its TTL anyway.
    pub renews_ttl: bool,
    /// Channel of the message.
    pub channel: Channel,
    /// Message to publish.
    pub message: String,
    /// Fields of the hash; `final` is the last one of a candle.
    pub fields: Fields,
}

/// Result of a [`Put`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutResult {
    /// The hash was written and published.
    Written,
    /// The hash is newer.
    Outdated,
    /// The hash is not the base of the changed fields and has to be written whole.
    NeedsWhole,
    /// The key had another type and was moved aside; the hash has to be written whole.
    WasForeign,
}

impl FromRedisValue for PutResult {
    fn from_redis_value(value: Value) -> Result<Self, ParsingError> {
        Ok(match i64::from_redis_value(value)? {
            0 => Self::Outdated,
            1 => Self::Written,
            2 => Self::NeedsWhole,
            _ => Self::WasForeign,
        })
    }
}

/// Returns the command that writes and publishes hashes of one slot.
pub(super) fn put_all(puts: &[Put]) -> Cmd {
    let mut command = cmd("FCALL");
    command.arg("storage_put_all").arg(puts.len());
    for put in puts {
        command.arg(&put.key);
    }
    for put in puts {
        let base = put.base.map(Revision::as_i64);
        command
            .arg(put.revision.as_i64())
            .arg(base.map_or_else(String::new, |base| base.to_string()))
            .arg(put.ttl_ms)
            .arg(u8::from(put.renews_ttl))
            .arg(&put.channel)
            .arg(&put.message)
            .arg(2 * put.fields.len())
            .arg(&put.fields);
    }
    command
}

/// Moves the position of a group by `count` entries from `from` to `to`, and returns its position. The position stays
/// if it is not `from`, or if the entries were read from another server than the one that holds the stream now.
///
/// # Errors
/// `NOGROUP` if the group is lost. Trying again after an error is safe.
pub async fn advance(
    conn: &mut impl ConnectionLike,
    stream: Stream,
    group: &str,
    from: StreamId,
    to: StreamId,
    count: usize,
) -> RedisResult<StreamId> {
    let arguments = (group, from.to_string(), to.to_string(), count);
    let command = call("storage_advance", &stream.key(), arguments);
    reply::stream_id(command.query_async(conn).await?)
}

/// Returns the command that adds an entry for another worker. It works at the memory limit too, because the work that
/// it starts frees memory.
pub fn announce(stream: Stream, fields: &Fields) -> Cmd {
    call("storage_announce", &stream.key(), fields)
}

/// [`announce`]s several entries. After an error, some of them may have been added.
pub async fn announce_all(conn: &mut impl ConnectionLike, stream: Stream, entries: &[Fields]) -> RedisResult<()> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut announcements = pipe();
    for fields in entries {
        announcements.add_command(announce(stream, fields)).ignore();
    }
    announcements.exec_async(conn).await
}

/// Lets Redis generate the IDs of `stream` from `next` on again, after a client has added an entry with an ID of the
/// far future. Removes the entries from the ID `first` on and returns their number. No worker that reads by position
/// may run.
///
/// # Errors
/// `UNFINISHED` if a group has not finished every entry.
pub async fn reset_ids(
    conn: &mut impl ConnectionLike,
    stream: Stream,
    first: StreamId,
    next: StreamId,
) -> RedisResult<u64> {
    let arguments = (first.to_string(), next.to_string());
    call("storage_reset_ids", &stream.key(), arguments)
        .query_async(conn)
        .await
}

/// Returns the command that counts the entries lost to a group whose entries Redis delivers. `checked` is its position
/// at the last call.
pub(super) fn lost_of_delivering_group(stream: Stream, group: &str, checked: StreamId) -> Cmd {
    call("storage_lost", &stream.key(), (group, checked.to_string()))
}

/// Returns the command that counts the entries lost to a group with one reader, which has read `ahead` entries from
/// `position` to `after`.
pub(super) fn lost(stream: Stream, group: &str, position: StreamId, after: StreamId, ahead: u64) -> Cmd {
    let mut command = lost_of_delivering_group(stream, group, position);
    command.arg(after.to_string()).arg(ahead);
    command
}

pub(super) fn begin_epoch(key: &Key) -> Cmd {
    call("storage_take_up", key, NO_ARGUMENTS)
}

pub(super) fn complete_since(key: &Key) -> Cmd {
    call("storage_complete_since", key, NO_ARGUMENTS)
}

pub(super) fn mark_open<'a>(key: &Key, epoch: &str, symbols: impl IntoIterator<Item = &'a Symbol>) -> Cmd {
    on_symbols("storage_opened", key, epoch, symbols)
}

pub(super) fn mark_closed<'a>(key: &Key, epoch: &str, symbols: impl IntoIterator<Item = &'a Symbol>) -> Cmd {
    on_symbols("storage_closed", key, epoch, symbols)
}

fn on_symbols<'a>(function: &str, key: &Key, epoch: &str, symbols: impl IntoIterator<Item = &'a Symbol>) -> Cmd {
    let mut command = call(function, key, epoch);
    for symbol in symbols {
        command.arg(symbol.as_str());
    }
    command
}

pub(super) fn reset_group(stream: Stream, group: &str) -> Cmd {
    call("storage_give_back", &stream.key(), group)
}

pub(super) fn remove_idle_consumers(stream: Stream, group: &str, idle_ms: u64) -> Cmd {
    call("storage_retire", &stream.key(), (group, idle_ms))
}

pub(super) fn acquire_lease(key: &Key, owner: &str, ttl_ms: u64) -> Cmd {
    call("storage_lease", key, (owner, ttl_ms))
}

pub(super) fn release_lease(key: &Key, owner: &str) -> Cmd {
    call("storage_release", key, owner)
}

pub(super) fn join(key: &Key, member: &str, ttl_ms: u64) -> Cmd {
    call("storage_join", key, (member, ttl_ms))
}

const NO_ARGUMENTS: &[&str] = &[];

fn call(function: &str, key: &Key, arguments: impl ToRedisArgs) -> Cmd {
    let mut command = cmd("FCALL");
    command.arg(function).arg(1).arg(key).arg(arguments);
    command
}

/// Parses `local VERSION = N` at compile time, so that the number is written once.
const fn version_of(library: &str) -> i64 {
    let (text, mark) = (library.as_bytes(), b"local VERSION = ");
    let mut at = 0;
    let mut matched = 0;
    while matched < mark.len() {
        matched = if text[at] == mark[matched] { matched + 1 } else { 0 };
        at += 1;
    }
    let mut version = 0;
    while text[at].is_ascii_digit() {
        version = version * 10 + (text[at] - b'0') as i64;
        at += 1;
    }
    version
}
