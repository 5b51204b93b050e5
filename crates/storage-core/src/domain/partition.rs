//! Partitions: the assignment of symbols to streams.

use crc::{CRC_16_XMODEM, Crc};

use super::symbol::Symbol;

/// The CRC16 of Redis Cluster's key slots.
const CRC16: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// Returns the partition of `symbol`: its CRC16 modulo `partitions`.
pub fn partition_of(symbol: &Symbol, partitions: u16) -> u16 {
    CRC16.checksum(symbol.as_str().as_bytes()) % partitions.max(1)
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
