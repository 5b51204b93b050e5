//! warm-syncer with a real Redis and real databases.
#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test"
)]

mod faults;
mod flow;
mod harness;
mod start;

use storage_core::domain::candle::Candle;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::entry::Fields;
use storage_core::domain::partition::partition_of;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles;
use storage_core::redis::stream::Stream;

use harness::PARTITIONS;

/// 2019-10-11T00:00:00Z.
const OLD_US: i64 = 1_570_752_000_000_000;
const MINUTE_US: i64 = 60_000_000;

fn symbol(name: &str) -> Symbol {
    name.parse().unwrap()
}

fn ticks_of(name: &str) -> Stream {
    Stream::Ticks(partition_of(&symbol(name), PARTITIONS))
}

fn candles_of(name: &str) -> Stream {
    Stream::Candles(partition_of(&symbol(name), PARTITIONS))
}

fn tick(name: &str, ts_us: i64, qty: &str, trade_id: i64) -> Fields {
    vec![
        ("symbol", name.to_owned()),
        ("ts_us", ts_us.to_string()),
        ("price", "0.0123".to_owned()),
        ("qty", qty.to_owned()),
        ("trade_id", trade_id.to_string()),
        ("side", "buy".to_owned()),
    ]
}

fn signal(id: &str, strength: f64) -> Fields {
    vec![
        ("signal_id", id.to_owned()),
        ("symbol", "BTCUSDT".to_owned()),
        ("strategy", "breakout".to_owned()),
        ("side", "buy".to_owned()),
        ("strength", strength.to_string()),
        ("price", "42000.5".to_owned()),
        ("ts_us", OLD_US.to_string()),
        ("ttl_ms", "60000".to_owned()),
    ]
}

fn revision(ms: u64) -> Revision {
    StreamId::at_ms(ms).try_into().unwrap()
}

/// Returns the candle of a minute with `trades` trades of 1.5 units each, from the entries `since` to `to` (ms).
fn candle(name: &str, start_us: i64, since: u64, to: u64, trades: i64) -> Fields {
    let volume = Decimal::from_lots(i128::from(15 * trades), 1);
    let mut candle = Candle::of_tick(Timeframe::M1, start_us, 1.25, volume, revision(since));
    candle.trades = trades;
    candle.revision = revision(to);
    candles::entry_fields(&symbol(name), &candle)
}
