//! The Redis Function library `redis/functions.lua`: loading it, checking it, and the commands that call it.

use redis::aio::ConnectionLike;
use redis::{Cmd, RedisResult, cmd, pipe};

use super::connection::Connection;
use super::keys::{Channel, Key};
use super::reply;
use super::stream::{Fields, Stream};
use crate::domain::stream_id::{Revision, StreamId};
use crate::domain::symbol::Symbol;

const LIBRARY: &str = include_str!("../../../../redis/functions.lua");

/// The version of the library in this build.
pub const VERSION: i64 = version_of(LIBRARY);

/// Why a worker can't use the functions that Redis has.
#[derive(Debug, thiserror::Error)]
pub enum FunctionsError {
    /// None are loaded.
    #[error("Redis has none of the pipeline's functions; run `aggregator-admin migrate`")]
    Missing,
    /// An older version is loaded.
    #[error("the functions in Redis are version {found}, this build needs {VERSION}; run `aggregator-admin migrate`")]
    Old {
        /// The version that Redis has.
        found: i64,
    },
    /// Redis could not be asked.
    #[error(transparent)]
    Redis(#[from] redis::RedisError),
}

/// Loads the library, in place of an older one.
///
/// # Errors
/// When Redis refuses it.
pub async fn load(conn: &mut impl ConnectionLike) -> RedisResult<()> {
    cmd("FUNCTION")
        .arg("LOAD")
        .arg("REPLACE")
        .arg(LIBRARY)
        .query_async(conn)
        .await
}

/// Checks that the library is loaded and not older than this build's, on every master of a cluster.
///
/// # Errors
/// Says what is wrong and which command mends it.
pub async fn check(conn: &mut Connection) -> Result<(), FunctionsError> {
    let mut ask = cmd("FCALL_RO");
    ask.arg("storage_version").arg(0);
    match conn.of_every_master::<i64>(&ask).await {
        Ok(found) => match found.into_iter().min() {
            Some(found) if found < VERSION => Err(FunctionsError::Old { found }),
            _ => Ok(()),
        },
        Err(error) if error.to_string().contains("Function not found") => Err(FunctionsError::Missing),
        Err(error) => Err(error.into()),
    }
}

/// When a hash written by [`put`] ends.
#[derive(Clone, Copy, Debug)]
pub enum Expiry {
    /// So many milliseconds after this write.
    AfterMs(i64),
    /// At this time, in ms since 1970.
    AtMs(i64),
}

/// Writes a whole hash, renews its TTL and publishes `message`, unless the hash has a newer revision.
pub fn put(key: &Key, revision: Revision, expiry: Expiry, publish: Option<(&Channel, &str)>, fields: &Fields) -> Cmd {
    let mut command = call("storage_put", key);
    command.arg(revision.as_i64());
    match expiry {
        Expiry::AfterMs(ms) => command.arg("PEXPIRE").arg(ms),
        Expiry::AtMs(ms) => command.arg("PEXPIREAT").arg(ms),
    };
    match publish {
        Some((channel, message)) => command.arg(channel).arg(message),
        None => command.arg("").arg(""),
    };
    for (name, value) in fields {
        command.arg(name).arg(value);
    }
    command
}

/// Moves a group's position on over `count` entries, unless somebody else has moved it meanwhile, or the entries were read from another
/// server than the one that holds the stream now. Returns the position.
///
/// # Errors
/// When Redis can't be asked; `NOGROUP` where the group is lost. Trying again is safe.
pub async fn advance(
    conn: &mut impl ConnectionLike,
    stream: Stream,
    group: &str,
    from: StreamId,
    to: StreamId,
    count: usize,
) -> RedisResult<StreamId> {
    let mut command = call("storage_advance", &stream.key());
    command.arg(group).arg(from.to_string()).arg(to.to_string()).arg(count);
    reply::stream_id(command.query_async(conn).await?)
}

/// Adds an entry to a stream for another worker, also at the memory limit: the work that it leads to frees memory.
pub fn announce(stream: Stream, fields: &Fields) -> Cmd {
    let mut command = call("storage_announce", &stream.key());
    for (name, value) in fields {
        command.arg(name).arg(value);
    }
    command
}

/// [`announce`]s several entries.
///
/// # Errors
/// When Redis can't be asked; some may have been added then.
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

/// Finds entries that a group lost whose entries Redis hands out. `noted` is its position at the last call.
pub(super) fn lost_of_handed_out(stream: Stream, group: &str, noted: StreamId) -> Cmd {
    let mut command = call("storage_lost", &stream.key());
    command.arg(group).arg(noted.to_string());
    command
}

/// Finds entries that a group with one reader lost, which has read `ahead` entries from `position` to `after`.
pub(super) fn lost(stream: Stream, group: &str, position: StreamId, after: StreamId, ahead: u64) -> Cmd {
    let mut command = lost_of_handed_out(stream, group, position);
    command.arg(after.to_string()).arg(ahead);
    command
}

pub(super) fn take_up(key: &Key) -> Cmd {
    call("storage_take_up", key)
}

pub(super) fn complete_since(key: &Key) -> Cmd {
    call("storage_complete_since", key)
}

pub(super) fn opened<'a>(key: &Key, term: &str, symbols: impl IntoIterator<Item = &'a Symbol>) -> Cmd {
    on_symbols("storage_opened", key, term, symbols)
}

pub(super) fn closed<'a>(key: &Key, term: &str, symbols: impl IntoIterator<Item = &'a Symbol>) -> Cmd {
    on_symbols("storage_closed", key, term, symbols)
}

fn on_symbols<'a>(function: &str, key: &Key, term: &str, symbols: impl IntoIterator<Item = &'a Symbol>) -> Cmd {
    let mut command = call(function, key);
    command.arg(term);
    for symbol in symbols {
        command.arg(symbol.as_str());
    }
    command
}

pub(super) fn give_back(stream: Stream, group: &str) -> Cmd {
    let mut command = call("storage_give_back", &stream.key());
    command.arg(group);
    command
}

pub(super) fn retire(stream: Stream, group: &str, idle_ms: u64) -> Cmd {
    let mut command = call("storage_retire", &stream.key());
    command.arg(group).arg(idle_ms);
    command
}

pub(super) fn lease(key: &Key, owner: &str, ttl_ms: u64) -> Cmd {
    let mut command = call("storage_lease", key);
    command.arg(owner).arg(ttl_ms);
    command
}

pub(super) fn release(key: &Key, owner: &str) -> Cmd {
    let mut command = call("storage_release", key);
    command.arg(owner);
    command
}

pub(super) fn join(key: &Key, member: &str, ttl_ms: u64) -> Cmd {
    let mut command = call("storage_join", key);
    command.arg(member).arg(ttl_ms);
    command
}

fn call(function: &str, key: &Key) -> Cmd {
    let mut command = cmd("FCALL");
    command.arg(function).arg(1).arg(key);
    command
}

/// Reads `local VERSION = N` at compile time, so that the number stands once.
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
