//! Copying keys from one server to another, byte for byte, with the moment at which each expires.

use std::time::Duration;

use redis::aio::ConnectionLike;
use redis::{ErrorKind, RedisError, RedisResult, Value, cmd, pipe};

/// The name of any key: it may hold any byte.
pub type RawKey = Vec<u8>;

/// A key with its value as DUMP gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DumpedKey {
    /// Its name.
    pub key: RawKey,
    /// Its value, in Redis' own format with version and checksum.
    pub payload: Vec<u8>,
    /// When it expires, in ms since 1970; `None`: never.
    pub expires_ms: Option<i64>,
}

/// When a key expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// There is no such key (any more).
    Gone,
    /// Never.
    Never,
    /// At this time, in ms since 1970.
    At(i64),
}

impl From<i64> for Expiry {
    fn from(reply: i64) -> Self {
        match reply {
            -2 => Self::Gone,
            -1 => Self::Never,
            at_ms => Self::At(at_ms),
        }
    }
}

/// Uses this database for what follows. Only for a connection that nobody else uses and that doesn't reopen itself.
///
/// # Errors
/// When Redis can't be asked, or has no such database.
pub async fn select(conn: &mut impl ConnectionLike, database: i64) -> RedisResult<()> {
    cmd("SELECT").arg(database).query_async(conn).await
}

/// The next keys from `cursor` on, and the cursor to go on from: 0 at the end. A key may come twice.
///
/// # Errors
/// When Redis can't be asked.
pub async fn scan(conn: &mut impl ConnectionLike, cursor: u64, count: usize) -> RedisResult<(u64, Vec<RawKey>)> {
    cmd("SCAN").arg(cursor).arg("COUNT").arg(count).query_async(conn).await
}

/// Values and expiry of `keys`, without those that are gone.
///
/// # Errors
/// When Redis can't be asked.
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
            Expiry::Gone => continue,
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

/// Creates the keys. One whose time has passed meanwhile is left out by Redis.
///
/// # Errors
/// When Redis can't be asked, has one of the keys already (`BUSYKEY`), or doesn't know the format. The keys before are
/// there then.
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

/// When each of `keys` expires.
///
/// # Errors
/// When Redis can't be asked.
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

/// What a stream holds and how far its groups are, in a form to compare by.
///
/// # Errors
/// When Redis can't be asked.
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

/// Those of `keys` that are streams.
///
/// # Errors
/// When Redis can't be asked.
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

/// All function libraries, in Redis' own format.
///
/// # Errors
/// When Redis can't be asked.
pub async fn dump_functions(conn: &mut impl ConnectionLike) -> RedisResult<Vec<u8>> {
    cmd("FUNCTION").arg("DUMP").query_async(conn).await
}

/// Loads the libraries of [`dump_functions`], in the place of those of the same name.
///
/// # Errors
/// When Redis can't be asked or refuses them.
pub async fn restore_functions(conn: &mut impl ConnectionLike, payload: &[u8]) -> RedisResult<()> {
    cmd("FUNCTION")
        .arg("RESTORE")
        .arg(payload)
        .arg("REPLACE")
        .query_async(conn)
        .await
}

/// Has a server make all writes wait, for at most `longest`; reads, snapshots and replication go on.
///
/// # Errors
/// When Redis can't be asked or refuses it.
pub async fn hold_writes(conn: &mut impl ConnectionLike, longest: Duration) -> RedisResult<()> {
    let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    cmd("CLIENT")
        .arg("PAUSE")
        .arg(longest_ms)
        .arg("WRITE")
        .query_async(conn)
        .await
}

/// Lets the writes of [`hold_writes`] go on.
///
/// # Errors
/// When Redis can't be asked.
pub async fn release_writes(conn: &mut impl ConnectionLike) -> RedisResult<()> {
    cmd("CLIENT").arg("UNPAUSE").query_async(conn).await
}

fn unexpected() -> RedisError {
    (
        ErrorKind::UnexpectedReturnType,
        "Redis did not answer with a value and its expiry",
    )
        .into()
}
