//! Loads of the replicas of hot-writer, by which they divide the budget of open candles among them.

use std::collections::BTreeMap;

use redis::aio::ConnectionLike;
use redis::{RedisResult, pipe};

use super::keys;

/// Time after which a load is removed, in ms.
const MAX_AGE_MS: u64 = 10_000;

/// Load of one replica.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WriteLoad {
    /// Time of the measurement, in ms since 1970.
    pub at_ms: u64,
    /// Number of open candles that wait to be written.
    pub waiting: u64,
    /// Share of the time of Redis that the replica's open candles cost.
    pub share: f64,
    /// Maximum age of a published 1-minute candle in the second before, in ms.
    pub max_age_ms: u64,
}

impl WriteLoad {
    fn encode(&self) -> String {
        let Self {
            at_ms,
            waiting,
            share,
            max_age_ms,
        } = self;
        format!("{at_ms} {waiting} {share:.4} {max_age_ms}")
    }

    fn decode(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        Some(Self {
            at_ms: words.next()?.parse().ok()?,
            waiting: words.next()?.parse().ok()?,
            share: words.next()?.parse().ok()?,
            max_age_ms: words.next()?.parse().ok()?,
        })
    }
}

/// Reads the load of each replica that has written open candles in the last seconds before `now_ms`.
pub async fn loads(conn: &mut impl ConnectionLike, now_ms: u64) -> RedisResult<BTreeMap<String, WriteLoad>> {
    let loads = redis::cmd("HGETALL").arg(keys::write_loads()).query_async(conn).await?;
    Ok(recent(&loads, now_ms))
}

/// Stores the load of `replica` and returns the recent loads of all replicas.
pub async fn exchange(
    conn: &mut impl ConnectionLike,
    replica: &str,
    load: WriteLoad,
) -> RedisResult<BTreeMap<String, WriteLoad>> {
    let key = keys::write_loads();
    let (_, _, loads): ((), (), BTreeMap<String, String>) = pipe()
        .hset(&key, replica, load.encode())
        .pexpire(&key, MAX_AGE_MS.cast_signed())
        .hgetall(&key)
        .query_async(conn)
        .await?;
    let recent = recent(&loads, load.at_ms);
    let old: Vec<&String> = loads.keys().filter(|replica| !recent.contains_key(*replica)).collect();
    if !old.is_empty() {
        redis::cmd("HDEL").arg(&key).arg(old).exec_async(conn).await?;
    }
    Ok(recent)
}

fn recent(loads: &BTreeMap<String, String>, now_ms: u64) -> BTreeMap<String, WriteLoad> {
    let loads = loads
        .iter()
        .filter_map(|(replica, load)| Some((replica, WriteLoad::decode(load)?)));
    let loads = loads.filter(|(_, load)| now_ms.saturating_sub(load.at_ms) < MAX_AGE_MS);
    loads.map(|(replica, load)| (replica.clone(), load)).collect()
}
