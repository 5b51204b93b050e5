//! The hot view: reading its hashes, and the index of what is still open.

use std::collections::HashMap;

use redis::aio::ConnectionLike;
use redis::{Cmd, RedisResult, cmd, pipe};

use super::codec::candles::{CandleState, decode_hash, hash_fields, message};
use super::codec::repairs::Base;
use super::functions::{self, Expiry};
use super::keys::{self, Key};
use crate::domain::candle::Candle;
use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::timeframe::Timeframe;

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

/// Part of a candle, as aggregator-admin hands it to hot-writer.
#[derive(Clone, Debug, PartialEq)]
pub struct RestoredBase {
    /// The last tick entry that was looked for.
    pub revision: Revision,
    /// The candle of the ticks found.
    pub candle: Option<Candle>,
}

/// For how long a base waits to be read: a hot-writer that was away for longer asks again.
const BASE_TTL_MS: i64 = 60 * 60 * 1_000;

/// Hands the part of a candle that was asked for as `base` to hot-writer.
pub fn put_base(base: &Base, candle: Option<&Candle>) -> Cmd {
    let key = keys::candle_restored(base.timeframe, &base.symbol, base.start_us);
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
    functions::put(&key, base.revision, Expiry::AfterMs(BASE_TTL_MS), None, &fields)
}

/// The bases at `keys`, in their order; `None` where there is none yet.
///
/// # Errors
/// When Redis can't be asked.
pub async fn bases(conn: &mut impl ConnectionLike, keys: &[Key]) -> RedisResult<Vec<Option<RestoredBase>>> {
    let mut reads = pipe();
    for key in keys {
        reads.cmd("HGETALL").arg(key);
    }
    let hashes: Vec<HashMap<Vec<u8>, Vec<u8>>> = reads.query_async(conn).await?;
    let decode = |(key, hash): (&Key, HashMap<Vec<u8>, Vec<u8>>)| {
        if hash.get(b"trades".as_slice())? == b"0" {
            let revision = std::str::from_utf8(hash.get(b"revision".as_slice())?).ok()?;
            return Some(RestoredBase {
                revision: revision.parse().ok()?,
                candle: None,
            });
        }
        let decoded = decode_hash(hash).unwrap_or_else(|error| {
            tracing::error!(%key, %error, "not a candle");
            None
        });
        decoded.map(|state| RestoredBase {
            revision: state.candle.revision,
            candle: Some(state.candle),
        })
    };
    Ok(keys.iter().zip(hashes).map(decode).collect())
}

/// Since when this Redis has held every candle of `partition`, in ms since 1970. Where it does not know, it is new or was emptied;
/// then that is now, and stays so.
///
/// # Errors
/// When Redis can't be asked.
pub async fn complete_since(conn: &mut impl ConnectionLike, partition: u16) -> RedisResult<u64> {
    functions::complete_since(&keys::complete_since(partition))
        .query_async(conn)
        .await
}

/// Notes that no candle of `partition` was ever lost, unless it is known since when: there were no ticks yet.
pub fn nothing_lost(partition: u16) -> Cmd {
    let mut command = cmd("SETNX");
    command.arg(keys::complete_since(partition)).arg(0);
    command
}

/// A hash as text, for showing it; empty where there is none.
///
/// # Errors
/// When Redis can't be asked.
pub async fn hash(conn: &mut impl ConnectionLike, key: &Key) -> RedisResult<HashMap<String, String>> {
    cmd("HGETALL").arg(key).query_async(conn).await
}

/// An owner's time with a partition. Terms grow from owner to owner, so that what an earlier one does late takes nothing away
/// from a later one.
#[derive(Clone, Debug)]
pub struct Term {
    partition: u16,
    number: String,
}

impl Term {
    /// Begins a term of `partition`, and returns the symbols that have candles not yet closed.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub async fn begin(conn: &mut impl ConnectionLike, partition: u16) -> RedisResult<(Self, Vec<Symbol>)> {
        let (number, symbols): (String, Vec<String>) = functions::take_up(&keys::open_symbols(partition))
            .query_async(conn)
            .await?;
        let symbols = symbols.into_iter().filter_map(|symbol| symbol.parse().ok());
        Ok((Self { partition, number }, symbols.collect()))
    }

    /// Notes that `symbols` have candles not yet closed.
    pub fn opened<'a>(&self, symbols: impl IntoIterator<Item = &'a Symbol>) -> Cmd {
        functions::opened(&keys::open_symbols(self.partition), &self.number, symbols)
    }

    /// Notes that all candles of `symbols` are closed, those excepted that a later term has noted.
    pub fn closed<'a>(&self, symbols: impl IntoIterator<Item = &'a Symbol>) -> Cmd {
        functions::closed(&keys::open_symbols(self.partition), &self.number, symbols)
    }
}

/// Publishes a candle that was closed, or a correction of it, as hot-writer does with those that it holds.
pub fn publish_final(timeframe: Timeframe, symbol: &Symbol, candle: &Candle) -> Cmd {
    let mut command = cmd("PUBLISH");
    command
        .arg(keys::candle_channel(timeframe, symbol))
        .arg(message(symbol, candle, true));
    command
}

/// Removes `key`.
pub fn remove(key: &Key) -> Cmd {
    let mut command = cmd("UNLINK");
    command.arg(key);
    command
}
