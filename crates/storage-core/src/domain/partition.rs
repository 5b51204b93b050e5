//! Partitions: which stream a symbol's ticks go to.

use super::symbol::Symbol;

/// The partition of `symbol`: CRC16 as Redis Cluster computes it (XMODEM), modulo `partitions`.
pub fn partition_of(symbol: &Symbol, partitions: u16) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(symbol.as_str().as_bytes()) % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_key_slots_of_redis_cluster() {
        // The check value of the Redis Cluster specification is CRC16("123456789") = 0x31C3.
        assert_eq!(partition_of(&"123456789".parse().unwrap(), 0x4000), 0x31C3);
        // `redis-cli cluster keyslot BTCUSDT`, modulo 4
        assert!(partition_of(&"BTCUSDT".parse().unwrap(), 4) < 4);
    }
}
