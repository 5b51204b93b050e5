//! The history against real servers, on each TimescaleDB edition that this machine has.
#![allow(clippy::unwrap_used, reason = "a test")]

mod access;
mod candles;
mod completeness;
mod connection;
mod dead_letters;
mod lost_state;
mod migrations;
mod roles;
mod rollups;
mod symbols;
mod ticks;

use storage_core::domain::stream_id::Revision;
use storage_core::domain::symbol::Symbol;
use storage_core::postgres::queries::candles::CandleRow;

fn symbol(name: &str) -> Symbol {
    name.parse().unwrap()
}

fn revision(number: i64) -> Revision {
    number.try_into().unwrap()
}

const MINUTE_US: i64 = 60_000_000;

/// 2019-10-11T00:00:00Z, long enough ago to be compressed by the policy.
const OLD_US: i64 = 1_570_752_000_000_000;

/// A candle of the `minute`th minute after [`OLD_US`], whose numbers all tell its price.
fn candle(name: &str, minute: i64, price: f64, revised: i64) -> CandleRow {
    CandleRow {
        start_us: OLD_US + minute * MINUTE_US,
        symbol: symbol(name),
        open: price,
        high: price + 2.0,
        low: price - 1.0,
        close: price + 1.0,
        volume_lots: 150_000_000,
        trades: 3,
        revision: revision(revised),
    }
}
