//! Volume decimals of symbols for hot-writer, copied from PostgreSQL's `symbols`.

use std::collections::HashMap;

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use super::keys;
use crate::domain::lots::DEFAULT_VOLUME_DECIMALS;
use crate::domain::symbol::Symbol;

/// Volume decimals of the symbols that differ from the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeDecimals(HashMap<String, u8>);

impl VolumeDecimals {
    /// Reads the decimals from Redis.
    pub async fn load(conn: &mut impl ConnectionLike) -> RedisResult<Self> {
        cmd("HGETALL").arg(keys::symbols()).query_async(conn).await.map(Self)
    }

    /// Returns the symbols in Redis with their decimals.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u8)> {
        self.0.iter().map(|(symbol, decimals)| (symbol.as_str(), *decimals))
    }

    /// Returns the volume decimals of `symbol`.
    pub fn of(&self, symbol: &Symbol) -> u8 {
        self.0.get(symbol.as_str()).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS)
    }
}

/// Stores the volume decimals of `symbol` for the hot-writers.
pub async fn store(conn: &mut impl ConnectionLike, symbol: &Symbol, decimals: u8) -> RedisResult<()> {
    if decimals == DEFAULT_VOLUME_DECIMALS {
        return cmd("HDEL")
            .arg(keys::symbols())
            .arg(symbol.as_str())
            .query_async(conn)
            .await;
    }
    cmd("HSET")
        .arg(keys::symbols())
        .arg(symbol.as_str())
        .arg(decimals)
        .query_async(conn)
        .await
}
