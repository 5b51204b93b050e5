//! Copying keys with their expiry from one server to another.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{ErrorKind, RedisError, RedisResult, Value, cmd, pipe};

use crate::domain::time::duration_ms;

/// Name of any key; it may contain any bytes.
pub type RawKey = Vec<u8>;

/// A key with its value as DUMP returns it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedKey {
    /// Name of the key.
    pub key: RawKey,
    /// Value in the format of Redis, with version and checksum.
    pub payload: Vec<u8>,
    /// Time at which the key expires, in ms since 1970; `None` if it does not expire.
    pub expires_ms: Option<i64>,
}

/// Expiry of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// The key does not exist.
    Missing,
    /// The key does not expire.
    Never,
    /// The key expires at this time, in ms since 1970.
    At(i64),
}

impl From<i64> for Expiry {
    fn from(reply: i64) -> Self {
        match reply {
            -2 => Self::Missing,
            -1 => Self::Never,
            at_ms => Self::At(at_ms),
        }
    }
}

/// Selects the database of a connection, which must be unshared and must not reconnect automatically.
pub async fn select(conn: &mut impl ConnectionLike, database: i64) -> RedisResult<()> {
    cmd("SELECT").arg(database).query_async(conn).await
}

/// Returns the next cursor, 0 at the end, and the keys found from `cursor` on. A key may be returned twice.
pub async fn scan(conn: &mut impl ConnectionLike, cursor: u64, count: usize) -> RedisResult<(u64, Vec<RawKey>)> {
    cmd("SCAN").arg(cursor).arg("COUNT").arg(count).query_async(conn).await
}

/// Reads the values and expiries of `keys`, without those that no longer exist.
pub async fn dump(conn: &mut impl ConnectionLike, keys: &[RawKey]) -> RedisResult<Vec<DumpedKey>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = pipe();
    for key in keys {
        pipeline.cmd("PEXPIRETIME").arg(key).cmd("DUMP").arg(key);
    }
    let replies: Vec<Value> = pipeline.query_async(conn).await?;
    let mut dumped = Vec::with_capacity(keys.len());
    for (key, reply) in keys.iter().zip(replies.chunks_exact(2)) {
        let [Value::Int(expires), value] = reply else {
            return Err(unexpected());
        };
        let expires_ms = match Expiry::from(*expires) {
            Expiry::Missing => continue,
            Expiry::Never => None,
            Expiry::At(at_ms) => Some(at_ms),
        };
        match value {
            Value::BulkString(payload) => dumped.push(DumpedKey {
                key: key.clone(),
                payload: payload.clone(),
                expires_ms,
            }),
            Value::Nil => {}
            _ => return Err(unexpected()),
        }
    }
    Ok(dumped)
}

/// Creates the keys, except those that have expired since the dump.
///
/// # Errors
/// `BUSYKEY` if a key exists. After an error, some of the keys may have been created.
pub async fn restore(conn: &mut impl ConnectionLike, keys: &[DumpedKey]) -> RedisResult<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut pipeline = pipe();
    for DumpedKey {
        key,
        payload,
        expires_ms,
    } in keys
    {
        pipeline
            .cmd("RESTORE")
            .arg(key)
            .arg(expires_ms.unwrap_or(0))
            .arg(payload)
            .arg("ABSTTL")
            .ignore();
    }
    pipeline.query_async(conn).await
}

/// Reads the expiry of each of `keys`.
pub async fn expiry(conn: &mut impl ConnectionLike, keys: &[RawKey]) -> RedisResult<Vec<Expiry>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = pipe();
    for key in keys {
        pipeline.cmd("PEXPIRETIME").arg(key);
    }
    let replies: Vec<i64> = pipeline.query_async(conn).await?;
    Ok(replies.into_iter().map(Expiry::from).collect())
}

/// Reads the length of a stream and the name, position and number of pending entries of each group, for a comparison.
pub async fn stream_state(
    conn: &mut impl ConnectionLike,
    stream: &RawKey,
) -> RedisResult<(u64, Vec<(String, String, u64)>)> {
    let length = cmd("XLEN").arg(stream).query_async(conn).await?;
    let groups: Vec<std::collections::BTreeMap<String, Value>> =
        cmd("XINFO").arg("GROUPS").arg(stream).query_async(conn).await?;
    let mut states = Vec::with_capacity(groups.len());
    for mut group in groups {
        let mut take = |name: &str| group.remove(name).unwrap_or(Value::Nil);
        let state = (
            redis::from_redis_value(take("name"))?,
            redis::from_redis_value(take("last-delivered-id"))?,
            redis::from_redis_value(take("pending"))?,
        );
        states.push(state);
    }
    states.sort();
    Ok((length, states))
}

/// Returns those of `keys` that are streams.
pub async fn streams_among(conn: &mut impl ConnectionLike, keys: &[RawKey]) -> RedisResult<Vec<RawKey>> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let mut pipeline = pipe();
    for key in keys {
        pipeline.cmd("TYPE").arg(key);
    }
    let types: Vec<String> = pipeline.query_async(conn).await?;
    Ok(keys
        .iter()
        .zip(types)
        .filter(|(_, kind)| kind == "stream")
        .map(|(key, _)| key.clone())
        .collect())
}

/// Dumps all function libraries in the format of Redis.
pub async fn dump_functions(conn: &mut impl ConnectionLike) -> RedisResult<Vec<u8>> {
    cmd("FUNCTION").arg("DUMP").query_async(conn).await
}

/// Loads the libraries of [`dump_functions`], and replaces those of the same name.
pub async fn restore_functions(conn: &mut impl ConnectionLike, payload: &[u8]) -> RedisResult<()> {
    cmd("FUNCTION")
        .arg("RESTORE")
        .arg(payload)
        .arg("REPLACE")
        .query_async(conn)
        .await
}

/// Pauses all writes of a server for at most `max`; reads, snapshots and replication continue.
pub async fn pause_writes(conn: &mut impl ConnectionLike, max: Duration) -> RedisResult<()> {
    cmd("CLIENT")
        .arg("PAUSE")
        .arg(duration_ms(max))
        .arg("WRITE")
        .query_async(conn)
        .await
}

/// Ends the pause of [`pause_writes`].
pub async fn resume_writes(conn: &mut impl ConnectionLike) -> RedisResult<()> {
    cmd("CLIENT").arg("UNPAUSE").query_async(conn).await
}

fn unexpected() -> RedisError {
    (
        ErrorKind::UnexpectedReturnType,
        "unexpected reply of Redis, instead of a value and its expiry",
    )
        .into()
}
