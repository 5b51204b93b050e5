//! Every Redis key and channel, built here and nowhere else.

use std::fmt;

use redis::{RedisWrite, ToRedisArgs, ToSingleRedisArg};

use crate::domain::symbol::Symbol;
use crate::domain::timeframe::Timeframe;

/// The name of a Redis key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(String);

/// The name of a Pub/Sub channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Channel(String);

/// `tick:latest:<SYMBOL>`: the latest tick by event time.
pub fn tick_latest(symbol: &Symbol) -> Key {
    Key(format!("tick:latest:{symbol}"))
}

/// `candle:current:<TF>:<SYMBOL>`: the newest candle of a timeframe.
pub fn candle_current(timeframe: Timeframe, symbol: &Symbol) -> Key {
    Key(format!("candle:current:{timeframe}:{symbol}"))
}

/// `candle:recent:<TF>:<SYMBOL>:<START>`: a candle that a newer one displaced but a late tick may still amend;
/// `<START>` in seconds since 1970.
pub fn candle_recent(timeframe: Timeframe, symbol: &Symbol, start_us: i64) -> Key {
    Key(format!("candle:recent:{timeframe}:{symbol}:{}", start_us / 1_000_000))
}

/// `candle:restored:<TF>:<SYMBOL>:<START>`: what hot-writer asked for of a candle, computed from the history.
pub fn candle_restored(timeframe: Timeframe, symbol: &Symbol, start_us: i64) -> Key {
    Key(format!("candle:restored:{timeframe}:{symbol}:{}", start_us / 1_000_000))
}

/// `signal:active:<SYMBOL>`: the newest signal that has not expired.
pub fn signal_active(symbol: &Symbol) -> Key {
    Key(format!("signal:active:{symbol}"))
}

/// `lease:<WORKER>:<P>`: who serves a partition.
pub fn lease(worker: &str, partition: u16) -> Key {
    Key(format!("lease:{worker}:{partition}"))
}

/// `lease:<WORKER>:members`: the copies of a worker that live.
pub fn members(worker: &str) -> Key {
    Key(format!("lease:{worker}:members"))
}

/// `stream:partitions`: the number of partitions, set once.
pub fn partitions() -> Key {
    Key("stream:partitions".to_owned())
}

/// `stream:database`: the database that Redis belongs to.
pub fn database() -> Key {
    Key("stream:database".to_owned())
}

/// `stream:symbols`: volume decimals of the symbols that don't have the default.
pub fn symbols() -> Key {
    Key("stream:symbols".to_owned())
}

/// `stream:backups:last`: the last backup of each kind.
pub fn last_backups() -> Key {
    Key("stream:backups:last".to_owned())
}

/// `stream:lost`: how many entries each group has lost, and when last.
pub fn lost() -> Key {
    Key("stream:lost".to_owned())
}

/// `stream:open:<P>`: the symbols of a partition that have candles not yet closed.
pub fn open_symbols(partition: u16) -> Key {
    Key(format!("stream:open:{partition}"))
}

/// `stream:since:<P>`: since when this Redis has held every candle of a partition, in ms since 1970; 0: always.
pub fn complete_since(partition: u16) -> Key {
    Key(format!("stream:since:{partition}"))
}

pub(super) fn stream(name: impl fmt::Display) -> Key {
    Key(format!("stream:{name}"))
}

/// `tick:<SYMBOL>`.
pub fn tick_channel(symbol: &Symbol) -> Channel {
    Channel(format!("tick:{symbol}"))
}

/// `candle:<TF>:<SYMBOL>`.
pub fn candle_channel(timeframe: Timeframe, symbol: &Symbol) -> Channel {
    Channel(format!("candle:{timeframe}:{symbol}"))
}

/// `signal:<SYMBOL>`.
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
