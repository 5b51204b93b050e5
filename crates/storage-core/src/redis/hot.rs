//! The hot view: reading its hashes, and the index of what is still open.

use std::collections::HashMap;

use redis::aio::ConnectionLike;
use redis::{Cmd, RedisResult, cmd, pipe};

use super::codec::candles::{CandleState, decode_hash};
use super::functions;
use super::keys::{self, Key};
use crate::domain::symbol::Symbol;

/// How many reads go to Redis at once.
const READS_AT_ONCE: usize = 1_000;

/// The candles at `keys`, in their order; `None` where there is none. A hash that is not a candle is reported and counts
/// as none.
///
/// # Errors
/// When Redis can't be asked.
pub async fn candles(conn: &mut impl ConnectionLike, keys: &[Key]) -> RedisResult<Vec<Option<CandleState>>> {
    let mut found = Vec::with_capacity(keys.len());
    for keys in keys.chunks(READS_AT_ONCE) {
        let mut reads = pipe();
        for key in keys {
            reads.cmd("HGETALL").arg(key);
        }
        let hashes: Vec<HashMap<Vec<u8>, Vec<u8>>> = reads.query_async(conn).await?;
        found.extend(keys.iter().zip(hashes).map(|(key, hash)| {
            decode_hash(hash).unwrap_or_else(|error| {
                tracing::error!(%key, %error, "not a candle");
                None
            })
        }));
    }
    Ok(found)
}

/// A hash as text, for showing it; empty where there is none.
///
/// # Errors
/// When Redis can't be asked.
pub async fn hash(conn: &mut impl ConnectionLike, key: &Key) -> RedisResult<HashMap<String, String>> {
    cmd("HGETALL").arg(key).query_async(conn).await
}

/// The symbols of a partition that have candles not yet closed.
///
/// # Errors
/// When Redis can't be asked.
pub async fn open_symbols(conn: &mut impl ConnectionLike, partition: u16) -> RedisResult<Vec<Symbol>> {
    let members: Vec<String> = cmd("SMEMBERS")
        .arg(keys::open_symbols(partition))
        .query_async(conn)
        .await?;
    Ok(members.into_iter().filter_map(|member| member.parse().ok()).collect())
}

/// Notes that `symbols` have candles not yet closed.
pub fn opened<'a>(partition: u16, symbols: impl IntoIterator<Item = &'a Symbol>) -> Cmd {
    functions::opened(&keys::open_symbols(partition), symbols)
}

/// Notes that all candles of `symbols` are closed.
pub fn closed<'a>(partition: u16, symbols: impl IntoIterator<Item = &'a Symbol>) -> Cmd {
    let mut command = cmd("SREM");
    command.arg(keys::open_symbols(partition));
    for symbol in symbols {
        command.arg(symbol.as_str());
    }
    command
}

/// Removes `key`.
pub fn remove(key: &Key) -> Cmd {
    let mut command = cmd("UNLINK");
    command.arg(key);
    command
}
