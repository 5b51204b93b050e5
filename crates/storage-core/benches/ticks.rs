//! Cost of a tick outside the fold: its partition, decoding its entry, and encoding the commands for Redis.
#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::unwrap_used, reason = "a benchmark panics on an error")]

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use storage_core::domain::candle::Candle;
use storage_core::domain::entry::Entry;
use storage_core::domain::partition::partition_of;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::{candles, ticks};
use storage_core::redis::functions::{self, Expiry};
use storage_core::redis::keys;

const MAX_FUTURE: Duration = Duration::from_secs(5);

fn entry() -> Entry {
    let fields = [
        ("symbol", "BTCUSDT"),
        ("ts_us", "1700000000123456"),
        ("price", "42000.1"),
        ("qty", "0.005"),
        ("trade_id", "1234567"),
        ("side", "buy"),
    ];
    Entry::new(StreamId::at_ms(1_700_000_000_200), fields)
}

fn partition(criterion: &mut Criterion) {
    let symbol: Symbol = "BTCUSDT".parse().unwrap();
    criterion.bench_function("partition", |bench| bench.iter(|| partition_of(black_box(&symbol), 4)));
}

fn decode(criterion: &mut Criterion) {
    let entry = entry();
    criterion.bench_function("decode a tick", |bench| {
        bench.iter(|| AcceptedTick::from_entry(black_box(&entry), MAX_FUTURE).unwrap());
    });
}

fn encode(criterion: &mut Criterion) {
    let accepted = AcceptedTick::from_entry(&entry(), MAX_FUTURE).unwrap();
    let tick = &accepted.tick;
    let (symbol, revision, ttl) = (&tick.symbol, accepted.revision, Expiry::AfterMs(3_600_000));
    criterion.bench_function("encode a latest tick", |bench| {
        bench.iter(|| {
            let (key, channel) = (keys::tick_latest(symbol), keys::tick_channel(symbol));
            let message = ticks::message(black_box(&accepted));
            let fields = ticks::hash_fields(&accepted);
            functions::put(&key, revision, ttl, Some((&channel, &message)), &fields).get_packed_command()
        });
    });
    let candle = Candle::of_tick(Timeframe::M1, tick.ts_us, tick.price, tick.qty, revision);
    criterion.bench_function("encode a candle", |bench| {
        bench.iter(|| {
            let key = keys::candle_current(Timeframe::M1, symbol);
            let channel = keys::candle_channel(Timeframe::M1, symbol);
            let message = candles::message(symbol, black_box(&candle), false);
            let fields = candles::hash_fields(&candle, false);
            functions::put(&key, revision, ttl, Some((&channel, &message)), &fields).get_packed_command()
        });
    });
}

criterion_group!(benches, partition, decode, encode);
criterion_main!(benches);
