//! The worker as a process against a real Redis.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests may panic")]

mod flow;
mod restart;
mod start;

use storage_core::domain::candle::CandleState;
use storage_core::domain::entry::{Entry, Fields};
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::stream::{HOT_WRITER, Stream, range};
use storage_core::redis::{hot, keys};
use storage_core::testing::program::Program;
use storage_core::testing::redis::TestRedis;

/// 2019-10-11T00:00:00Z, the start of a bucket of every timeframe.
const DAY_US: i64 = 1_570_752_000_000_000;
const MINUTE_US: i64 = 60_000_000;
/// A tick at this time or later closes the minute at [`DAY_US`].
const CLOSE_US: i64 = DAY_US + 61 * MINUTE_US;
const SYMBOL: &str = "BTCUSDT";
const TICKS: Stream = Stream::Ticks(0);
const CANDLES: Stream = Stream::Candles(0);

/// Returns a worker of one partition. It closes a candle an hour of event time after its end, so that no candle is
/// closed by the clock during a test.
fn worker(redis: &TestRedis) -> Program {
    Program::new("hot-writer")
        .redis(&redis.config())
        .setting("stream.partitions=1")
        .setting("hot.close_grace=1h")
        .setting("hot.lease_ttl=1s")
}

fn symbol() -> Symbol {
    SYMBOL.parse().unwrap()
}

fn tick(ts_us: i64, price: &str, trade_id: i64) -> Fields {
    vec![
        ("symbol", SYMBOL.to_owned()),
        ("ts_us", ts_us.to_string()),
        ("price", price.to_owned()),
        ("qty", "0.5".to_owned()),
        ("trade_id", trade_id.to_string()),
        ("side", "buy".to_owned()),
    ]
}

/// Adds ticks and waits until the worker has written all their effects.
async fn fold(redis: &TestRedis, ticks: &[Fields]) {
    redis.add_all(TICKS, ticks).await;
    redis.drained(TICKS, HOT_WRITER).await;
}

async fn current(redis: &TestRedis, timeframe: Timeframe) -> Option<CandleState> {
    let key = keys::candle_current(timeframe, &symbol());
    hot::candles(&mut redis.connect(), &[key]).await.unwrap().remove(0)
}

async fn entries(redis: &TestRedis, stream: Stream) -> Vec<Entry> {
    let mut conn = redis.connect();
    range(&mut conn, stream, StreamId::START, StreamId::END, 10_000)
        .await
        .unwrap()
}
