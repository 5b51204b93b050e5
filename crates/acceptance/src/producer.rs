//! A feed handler, independent of the workers' code.

use redis::RedisResult;

use crate::oracle::{Kind, Trade};
use crate::redis_server::RedisServer;

/// Number of partitions of the streams: the default.
pub const PARTITIONS: u16 = 4;

/// Fields of an entry, in order.
pub type Fields = Vec<(String, String)>;

/// Returns the partition of a symbol: CRC16 (XMODEM), as Redis Cluster computes it, modulo `partitions`.
pub fn partition(symbol: &str, partitions: u16) -> u16 {
    let crc = symbol.bytes().fold(0_u16, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 {
                crc << 1
            } else {
                (crc << 1) ^ 0x1021
            }
        })
    });
    crc % partitions
}

/// Returns the fields that a feed handler sends.
pub fn fields(trade: &Trade) -> Fields {
    let mut fields = vec![
        ("symbol", trade.symbol.clone()),
        ("ts_us", trade.ts_us.to_string()),
        ("price", trade.price.clone()),
        ("qty", trade.qty.clone()),
    ];
    fields.extend(trade.id.clone().map(|id| ("trade_id", id)));
    match trade.kind {
        Kind::Trade => {}
        Kind::Correction => fields.push(("kind", "correction".to_owned())),
        Kind::Bust => {
            fields.retain(|(name, _)| !matches!(*name, "price" | "qty"));
            fields.push(("kind", "bust".to_owned()));
        }
    }
    fields
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Adds an entry and returns its ID.
pub async fn add(redis: &RedisServer, stream: &str, fields: &Fields) -> RedisResult<String> {
    let mut command = vec!["XADD", stream, "*"];
    command.extend(fields.iter().flat_map(|(name, value)| [name.as_str(), value.as_str()]));
    redis.ask(&command).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_check_value_of_the_specification() {
        assert_eq!(partition("123456789", u16::MAX), 0x31C3);
    }
}
