//! Volume decimals of symbols, as hot-writer needs them; PostgreSQL's `symbols` is the source.

use std::collections::HashMap;

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use super::keys;
use crate::domain::lots::DEFAULT_VOLUME_DECIMALS;
use crate::domain::symbol::Symbol;

/// The volume decimals of symbols, where they are not the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeDecimals(HashMap<String, u8>);

impl VolumeDecimals {
    /// Reads them from Redis.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub async fn load(conn: &mut impl ConnectionLike) -> RedisResult<Self> {
        cmd("HGETALL").arg(keys::symbols()).query_async(conn).await.map(Self)
    }

    /// The symbols that Redis names, with their decimals.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u8)> {
        self.0.iter().map(|(symbol, decimals)| (symbol.as_str(), *decimals))
    }

    /// The volume decimals of `symbol`.
    pub fn of(&self, symbol: &Symbol) -> u8 {
        self.0.get(symbol.as_str()).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS)
    }
}

/// Tells the hot-writers the volume decimals of `symbol`.
///
/// # Errors
/// When Redis can't be asked.
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
