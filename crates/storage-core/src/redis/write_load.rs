//! Loads of the replicas of hot-writer, by which they divide the budget of open candles among them.

use std::collections::BTreeMap;
use std::str::FromStr;

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

impl FromStr for WriteLoad {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut words = text.split(' ');
        let mut word = || words.next().ok_or(());
        Ok(Self {
            at_ms: word()?.parse().map_err(drop)?,
            waiting: word()?.parse().map_err(drop)?,
            share: word()?.parse().map_err(drop)?,
            max_age_ms: word()?.parse().map_err(drop)?,
        })
    }
}

/// Reads the load of each replica that has written open candles in the last seconds before `now_ms`.
pub async fn loads(conn: &mut impl ConnectionLike, now_ms: u64) -> RedisResult<BTreeMap<String, WriteLoad>> {
    let loads: BTreeMap<String, String> = redis::cmd("HGETALL").arg(keys::write_loads()).query_async(conn).await?;
    let loads = loads
        .into_iter()
        .filter_map(|(replica, load)| Some((replica, load.parse().ok()?)));
    Ok(loads.filter(|(_, load)| is_recent(load, now_ms)).collect())
}

/// Stores the load of `replica` and returns the recent loads of all replicas.
pub async fn exchange(
    conn: &mut impl ConnectionLike,
    replica: &str,
    load: WriteLoad,
) -> RedisResult<BTreeMap<String, WriteLoad>> {
    let WriteLoad {
        at_ms,
        waiting,
        share,
        max_age_ms,
    } = load;
    let key = keys::write_loads();
    let (_, _, loads): ((), (), BTreeMap<String, String>) = pipe()
        .hset(&key, replica, format!("{at_ms} {waiting} {share:.4} {max_age_ms}"))
        .pexpire(&key, MAX_AGE_MS.cast_signed())
        .hgetall(&key)
        .query_async(conn)
        .await?;
    let (mut recent, mut old) = (BTreeMap::new(), Vec::new());
    for (replica, load) in loads {
        match load.parse() {
            Ok(load) if is_recent(&load, at_ms) => drop(recent.insert(replica, load)),
            _ => old.push(replica),
        }
    }
    if !old.is_empty() {
        redis::cmd("HDEL").arg(&key).arg(old).exec_async(conn).await?;
    }
    Ok(recent)
}

fn is_recent(load: &WriteLoad, now_ms: u64) -> bool {
    now_ms.saturating_sub(load.at_ms) < MAX_AGE_MS
}
