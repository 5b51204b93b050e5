//! Tests of the history against real servers of each TimescaleDB edition on this machine.
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
mod spans;
mod symbols;
mod ticks;
mod trades;

use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::{AcceptedTick, Side, Tick};
use storage_core::postgres::queries::candles::CandleRow;
use storage_core::postgres::queries::ticks::TickRow;

fn symbol(name: &str) -> Symbol {
    name.parse().unwrap()
}

fn revision(number: i64) -> Revision {
    number.try_into().unwrap()
}

const MINUTE_US: i64 = 60_000_000;

/// 2019-10-11T00:00:00Z, long enough ago to be compressed by the policy.
const OLD_US: i64 = 1_570_752_000_000_000;

/// Creates a candle `minute` minutes after [`OLD_US`], whose prices derive from `price`.
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

/// Creates a tick of A with half a unit, whose entry has the ID `entry`.
fn tick(offset_us: i64, price: f64, trade_id: Option<&str>, entry: StreamId) -> TickRow {
    let accepted = AcceptedTick {
        tick: Tick {
            symbol: symbol("A"),
            ts_us: OLD_US + offset_us,
            price,
            qty: "0.5".parse().unwrap(),
            trade_id: trade_id.map(Into::into),
            side: Some(Side::Sell),
        },
        revision: entry.try_into().unwrap(),
        origin: entry,
    };
    TickRow::new(&accepted, 50_000_000).unwrap()
}
