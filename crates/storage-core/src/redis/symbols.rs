//! Properties of symbols for hot-writer, copied from PostgreSQL's `symbols`: volume decimals and prices.
//!
//! The hash holds what differs from the default: a field with the symbol's name for its decimals, and a field
//! `prices:<SYMBOL>` with the value 1 if the symbol may have any price. A symbol has no colon.

use std::collections::HashMap;

use redis::aio::ConnectionLike;
use redis::{RedisResult, cmd};

use super::keys;
use crate::domain::lots::DEFAULT_VOLUME_DECIMALS;
use crate::domain::prices::Prices;
use crate::domain::symbol::Symbol;

/// Properties of the symbols that differ from the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SymbolProperties(HashMap<String, u8>);

impl SymbolProperties {
    /// Reads the properties from Redis.
    pub async fn load(conn: &mut impl ConnectionLike) -> RedisResult<Self> {
        cmd("HGETALL").arg(keys::symbols()).query_async(conn).await.map(Self)
    }

    /// Returns the names of the symbols in Redis.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|field| field.strip_prefix(PRICES).unwrap_or(field))
    }

    /// Returns the volume decimals of `symbol`.
    pub fn decimals(&self, symbol: &Symbol) -> u8 {
        self.0.get(symbol.as_str()).copied().unwrap_or(DEFAULT_VOLUME_DECIMALS)
    }

    /// Returns the prices that `symbol` can have.
    pub fn prices(&self, symbol: &Symbol) -> Prices {
        if self.0.contains_key(&prices_field(symbol)) {
            Prices::Any
        } else {
            Prices::Positive
        }
    }
}

const PRICES: &str = "prices:";

fn prices_field(symbol: &Symbol) -> String {
    format!("{PRICES}{symbol}")
}

/// Stores the properties of `symbol` for the hot-writers.
pub async fn store(conn: &mut impl ConnectionLike, symbol: &Symbol, decimals: u8, prices: Prices) -> RedisResult<()> {
    let decimals = Some(decimals).filter(|decimals| *decimals != DEFAULT_VOLUME_DECIMALS);
    store_field(conn, symbol.as_str(), decimals).await?;
    let any = Some(1).filter(|_| prices == Prices::Any);
    store_field(conn, &prices_field(symbol), any).await
}

async fn store_field(conn: &mut impl ConnectionLike, field: &str, value: Option<u8>) -> RedisResult<()> {
    let command = match value {
        Some(value) => cmd("HSET").arg(keys::symbols()).arg(field).arg(value).clone(),
        None => cmd("HDEL").arg(keys::symbols()).arg(field).clone(),
    };
    command.query_async(conn).await
}
