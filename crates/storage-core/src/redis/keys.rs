//! Names of all Redis keys and channels; no other module builds them.

use std::fmt;

use redis::{RedisWrite, ToRedisArgs, ToSingleRedisArg};

use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::timeframe::Timeframe;

/// Name of a Redis key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

/// Name of a Pub/Sub channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Channel(String);

/// Returns `tick:latest:<SYMBOL>`, the latest tick by event time.
pub fn tick_latest(symbol: &Symbol) -> Key {
    Key(format!("tick:latest:{symbol}"))
}

/// Returns `candle:current:<TF>:<SYMBOL>`, the newest candle of a timeframe.
pub fn candle_current(timeframe: Timeframe, symbol: &Symbol) -> Key {
    Key(format!("candle:current:{timeframe}:{symbol}"))
}

/// Returns `candle:recent:<TF>:<SYMBOL>:<START>`, a candle that is no longer the newest but that a late tick may still
/// amend. `<START>` is in seconds since 1970.
pub fn candle_recent(timeframe: Timeframe, symbol: &Symbol, start_us: i64) -> Key {
    Key(format!("candle:recent:{timeframe}:{symbol}:{}", start_us / 1_000_000))
}

/// Returns `candle:restored:<TF>:<SYMBOL>:<START>:<REVISION>`, the beginning of a candle up to an entry, which
/// aggregator-admin has computed for hot-writer.
pub fn candle_restored(timeframe: Timeframe, symbol: &Symbol, start_us: i64, until: Revision) -> Key {
    let start_s = start_us / 1_000_000;
    Key(format!("candle:restored:{timeframe}:{symbol}:{start_s}:{until}"))
}

/// Returns `signal:active:<SYMBOL>`, the newest signal that has not expired.
pub fn signal_active(symbol: &Symbol) -> Key {
    Key(format!("signal:active:{symbol}"))
}

/// Returns `lease:<WORKER>:<P>`, the lease of a partition.
pub fn lease(worker: &str, partition: u16) -> Key {
    Key(format!("lease:{worker}:{partition}"))
}

/// Returns `lease:<WORKER>:members`, the replicas of a worker.
pub fn members(worker: &str) -> Key {
    Key(format!("lease:{worker}:members"))
}

/// Returns `lease:hot-writer:loads`, the load of each replica of hot-writer that writes open candles.
pub fn write_loads() -> Key {
    Key("lease:hot-writer:loads".to_owned())
}

/// Returns `lease:warm-syncer:windows`, the age from which each replica of warm-syncer announces changed minutes.
pub fn refresh_windows() -> Key {
    Key("lease:warm-syncer:windows".to_owned())
}

/// Returns `stream:partitions`, the number of partitions.
pub fn partitions() -> Key {
    Key("stream:partitions".to_owned())
}

/// Returns `stream:database`, the identity of the database that Redis belongs to.
pub fn database() -> Key {
    Key("stream:database".to_owned())
}

/// Returns `stream:symbols`, the volume decimals and prices of the symbols that differ from the default.
pub fn symbols() -> Key {
    Key("stream:symbols".to_owned())
}

/// Returns `stream:backups:last`, the last backup of each kind.
pub fn last_backups() -> Key {
    Key("stream:backups:last".to_owned())
}

/// Returns `stream:lost`, the number of entries that each group has lost and the time of the last loss.
pub fn lost() -> Key {
    Key("stream:lost".to_owned())
}

/// Returns `stream:looks`, what aggregator-admin knows of the streams and their groups.
pub fn looks() -> Key {
    Key("stream:looks".to_owned())
}

/// Returns `stream:open:<P>`, the symbols of a partition with open candles.
pub fn open_symbols(partition: u16) -> Key {
    Key(format!("stream:open:{partition}"))
}

/// Returns `stream:since:<P>`, the time since which this Redis has held every candle of a partition, in ms since 1970;
/// 0 is always.
pub fn complete_since(partition: u16) -> Key {
    Key(format!("stream:since:{partition}"))
}

pub(super) fn stream(name: impl fmt::Display) -> Key {
    Key(format!("stream:{name}"))
}

/// Returns `tick:<SYMBOL>`.
pub fn tick_channel(symbol: &Symbol) -> Channel {
    Channel(format!("tick:{symbol}"))
}

/// Returns `candle:<TF>:<SYMBOL>`.
pub fn candle_channel(timeframe: Timeframe, symbol: &Symbol) -> Channel {
    Channel(format!("candle:{timeframe}:{symbol}"))
}

/// Returns `signal:<SYMBOL>`.
pub fn signal_channel(symbol: &Symbol) -> Channel {
    Channel(format!("signal:{symbol}"))
}

macro_rules! redis_name {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl ToRedisArgs for $name {
            fn write_redis_args<W: ?Sized + RedisWrite>(&self, out: &mut W) {
                out.write_arg(self.0.as_bytes());
            }
        }

        impl ToSingleRedisArg for $name {}
    };
}

redis_name!(Key);
redis_name!(Channel);
