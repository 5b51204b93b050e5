//! The hot view: its hashes, and the index of symbols with open candles.

use std::collections::HashMap;

use redis::aio::ConnectionLike;
use redis::{Cmd, RedisError, RedisResult, cmd, pipe};

use super::codec::candles::{decode_hash, hash_fields, message};
use super::codec::repairs::Base;
use super::connection::Connection;
use super::functions::{self, Expiry, Put, PutResult};
use super::keys::{self, Key};
use crate::domain::candle::{Candle, CandleState};
use crate::domain::symbol::Symbol;
use crate::domain::timeframe::Timeframe;

/// Maximum number of hashes in a call of `storage_put_all`; other clients of Redis wait for about 0.3 ms meanwhile.
pub const PUTS_PER_CALL: usize = 64;

/// Number of reads in one pipeline.
const READS_PER_PIPELINE: usize = 1_000;

/// Reads the candles at `keys`, in their order; `None` for a key that does not exist. A hash that is not a candle is
/// logged and returned as `None`.
pub async fn candles(conn: &mut impl ConnectionLike, keys: &[Key]) -> RedisResult<Vec<Option<CandleState>>> {
    let mut found = Vec::with_capacity(keys.len());
    for keys in keys.chunks(READS_PER_PIPELINE) {
        let hashes = hashes(conn, keys).await?;
        found.extend(keys.iter().zip(hashes).map(|(key, hash)| candle(key, hash)));
    }
    Ok(found)
}

/// Reads the hashes at `keys`. A key of another type is logged and is empty.
async fn hashes(conn: &mut impl ConnectionLike, keys: &[Key]) -> RedisResult<Vec<HashMap<Vec<u8>, Vec<u8>>>> {
    let mut reads = pipe();
    for key in keys {
        reads.cmd("HGETALL").arg(key);
    }
    match reads.query_async(conn).await {
        Err(error) if is_wrong_type(&error) => {}
        hashes => return hashes,
    }
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        found.push(match cmd("HGETALL").arg(key).query_async(conn).await {
            Err(error) if is_wrong_type(&error) => {
                tracing::error!(%key, "the key is no hash; hot-writer moves it aside when it writes it");
                HashMap::new()
            }
            hash => hash?,
        });
    }
    Ok(found)
}

fn is_wrong_type(error: &RedisError) -> bool {
    error.to_string().contains("WRONGTYPE")
}

fn candle(key: &Key, hash: HashMap<Vec<u8>, Vec<u8>>) -> Option<CandleState> {
    decode_hash(hash).unwrap_or_else(|error| {
        tracing::error!(%key, %error, "the hash does not hold a candle");
        None
    })
}

/// A base that aggregator-admin has computed from the history; without a candle if there were no ticks.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoredBase(pub Option<Candle>);

/// Time after which a restored base expires, in ms. A hot-writer that did not run for longer requests it again.
const BASE_TTL_MS: i64 = 10 * 60 * 1_000;

/// Returns the key of the answer to a request. Each has its own: a new owner of the partition may request a base up to
/// an earlier entry than the last owner, because Redis lacks the last changes of that owner.
fn base_key(base: &Base) -> Key {
    keys::candle_restored(base.timeframe, &base.symbol, base.start_us, base.revision)
}

/// Returns the command that answers hot-writer's request for `base`.
pub fn put_base(base: &Base, candle: Option<&Candle>) -> Cmd {
    let fields = match candle {
        Some(candle) => hash_fields(
            &Candle {
                revision: base.revision,
                ..candle.clone()
            },
            false,
        ),
        None => vec![("trades", "0".to_owned()), ("final", "0".to_owned())],
    };
    functions::put(
        &base_key(base),
        base.revision,
        Expiry::AfterMs(BASE_TTL_MS),
        None,
        &fields,
    )
}

/// Reads the answers to `requests`, in their order; `None` for one that is not answered yet.
pub async fn bases(conn: &mut impl ConnectionLike, requests: &[Base]) -> RedisResult<Vec<Option<RestoredBase>>> {
    let keys: Vec<Key> = requests.iter().map(base_key).collect();
    let hashes = hashes(conn, &keys).await?;
    let decode = |(key, hash): (&Key, HashMap<Vec<u8>, Vec<u8>>)| {
        if hash.get(b"trades".as_slice())? == b"0" {
            return Some(RestoredBase(None));
        }
        candle(key, hash).map(|state| RestoredBase(Some(state.candle)))
    };
    Ok(keys.iter().zip(hashes).map(decode).collect())
}

/// Returns the time since which this Redis has held every candle of `partition`, in ms since 1970. If Redis holds no
/// such time, because it is new or was emptied, the current time is stored and returned.
pub async fn complete_since(conn: &mut impl ConnectionLike, partition: u16) -> RedisResult<u64> {
    functions::complete_since(&keys::complete_since(partition))
        .query_async(conn)
        .await
}

/// Reads the time of [`complete_since`]; `None` if Redis holds none.
pub async fn known_complete_since(conn: &mut impl ConnectionLike, partition: u16) -> RedisResult<Option<u64>> {
    cmd("GET").arg(keys::complete_since(partition)).query_async(conn).await
}

/// Returns the command that stores 0, which means always, as the time of [`complete_since`], unless Redis holds a time.
pub fn complete_from_start(partition: u16) -> Cmd {
    let mut command = cmd("SETNX");
    command.arg(keys::complete_since(partition)).arg(0);
    command
}

/// Reads the event times of the latest ticks at `keys`, in µs since 1970; `None` for a key without one.
pub async fn tick_times(conn: &mut impl ConnectionLike, keys: &[Key]) -> RedisResult<Vec<Option<i64>>> {
    let mut pipeline = pipe();
    for key in keys {
        pipeline.cmd("HGET").arg(key).arg("ts_us");
    }
    pipeline.query_async(conn).await
}

/// Reads a hash as text; empty if it does not exist.
pub async fn hash(conn: &mut impl ConnectionLike, key: &Key) -> RedisResult<HashMap<String, String>> {
    cmd("HGETALL").arg(key).query_async(conn).await
}

/// Fencing token of a partition's owner in the index of symbols with open candles. Each owner gets a higher epoch, and
/// a late command of an earlier epoch removes no symbol of a later one.
#[derive(Clone, Debug)]
pub struct Epoch {
    partition: u16,
    number: String,
}

impl Epoch {
    /// Begins a new epoch of `partition`, and returns the symbols with open candles.
    pub async fn begin(conn: &mut impl ConnectionLike, partition: u16) -> RedisResult<(Self, Vec<Symbol>)> {
        let (number, symbols): (String, Vec<String>) = functions::begin_epoch(&keys::open_symbols(partition))
            .query_async(conn)
            .await?;
        let symbols = symbols.into_iter().filter_map(|symbol| symbol.parse().ok());
        Ok((Self { partition, number }, symbols.collect()))
    }

    /// Returns the command that adds `symbols` to the index.
    pub fn mark_open<'a>(&self, symbols: impl IntoIterator<Item = &'a Symbol>) -> Cmd {
        functions::mark_open(&keys::open_symbols(self.partition), &self.number, symbols)
    }

    /// Returns the command that removes `symbols` from the index, except those that a later epoch has added.
    pub fn mark_closed<'a>(&self, symbols: impl IntoIterator<Item = &'a Symbol>) -> Cmd {
        functions::mark_closed(&keys::open_symbols(self.partition), &self.number, symbols)
    }
}

/// Returns the command that publishes a closed candle or a correction of one, for candles that hot-writer no longer
/// holds.
pub fn publish_final(timeframe: Timeframe, symbol: &Symbol, candle: &Candle) -> Cmd {
    let mut command = cmd("PUBLISH");
    command
        .arg(keys::candle_channel(timeframe, symbol))
        .arg(message(symbol, candle, true));
    command
}

/// Writes and publishes hashes in one pipeline, and returns their results in order. A key of another type, which some
/// client has written, is moved aside and logged. Several keys share a call, except on a cluster, where they are in
/// different slots.
pub async fn put_all(conn: &mut Connection, puts: &[Put]) -> RedisResult<Vec<PutResult>> {
    let mut results = put_once(conn, puts).await?;
    for (put, result) in puts.iter().zip(&mut results) {
        if *result == PutResult::WasForeign {
            let key = &put.key;
            tracing::error!(%key, "the key was no hash; it is `foreign:{{{key}}}` now, for 7 days");
            *result = match put.base {
                Some(_) => PutResult::NeedsWhole,
                None => put_once(conn, std::slice::from_ref(put)).await?.remove(0),
            };
        }
    }
    Ok(results)
}

async fn put_once(conn: &mut Connection, puts: &[Put]) -> RedisResult<Vec<PutResult>> {
    let per_call = if conn.is_cluster().await? { 1 } else { PUTS_PER_CALL };
    let mut calls = pipe();
    for puts in puts.chunks(per_call) {
        calls.add_command(functions::put_all(puts));
    }
    let results: Vec<Vec<PutResult>> = calls.query_async(conn).await?;
    Ok(results.into_iter().flatten().collect())
}

/// Returns the command that removes `key`.
pub fn remove(key: &Key) -> Cmd {
    let mut command = cmd("UNLINK");
    command.arg(key);
    command
}
