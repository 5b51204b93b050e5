//! aggregator-admin with a real Redis and real databases of both editions.
#![allow(
    clippy::disallowed_methods,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test"
)]

mod adapt;
mod as_of;
mod commands;
mod drift;
mod edition;
mod gaps;
mod harness;
mod losses;
mod migrate;
mod minutes;
mod queries;
mod reread;
mod retention;
mod run;
mod scheduler;
mod schedules;
mod verify;

use storage_core::domain::partition::partition_of;
use storage_core::domain::symbol::Symbol;
use storage_core::redis::stream::Stream;

const PARTITIONS: u16 = 4;
/// 2019-10-11T00:00:00Z.
const OLD_US: i64 = 1_570_752_000_000_000;
const MINUTE_US: i64 = 60_000_000;

fn symbol() -> Symbol {
    "XRPETH".parse().unwrap()
}

fn ticks() -> Stream {
    Stream::Ticks(partition_of(&symbol(), PARTITIONS))
}

/// A minute of XRPETH with three ticks in `ticks`, and a candle that lacks two of them.
const LATE_MINUTE: &str = "
    INSERT INTO symbols (symbol) VALUES ('XRPETH');
    INSERT INTO ticks (time, symbol, price, lots, trade_no, trade_key, revision) VALUES
        ('2019-10-11 00:00:01Z', 'XRPETH', 2.0, 100000000, 1, '', 10),
        ('2019-10-11 00:00:00Z', 'XRPETH', 1.0, 100000000, 2, '', 20),
        ('2019-10-11 00:00:59Z', 'XRPETH', 3.0, 100000000, 3, '', 30);
    INSERT INTO candles_1m VALUES ('2019-10-11 00:00Z', 'XRPETH', 2, 2, 2, 2, 100000000, 1, 10)";
