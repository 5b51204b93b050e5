//! Measures folding a tick into six timeframes, and recognizing a trade.
#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(clippy::unwrap_used, reason = "a failed bench may panic")]

use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use hot_writer::decode::DecodedTick;
use hot_writer::dedup::{Dedup, TradeId};
use hot_writer::fold::{Rules, SymbolState};
use storage_core::domain::entry::Entry;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::trade_identity::TradeTime;

const TICKS: u64 = 1_000;
const DECIMALS: u8 = 8;

/// Returns the tick number `at`, of ten per second.
fn tick(at: u64) -> DecodedTick {
    let ms = 1_700_000_000_000 + at * 100;
    let fields = [
        ("symbol", "BTCUSDT".to_owned()),
        ("ts_us", (ms * 1_000).to_string()),
        ("price", (42_000 + at % 17).to_string()),
        ("qty", "0.005".to_owned()),
        ("trade_id", at.to_string()),
        ("side", "buy".to_owned()),
    ];
    let accepted = AcceptedTick::from_entry(&Entry::new(StreamId::at_ms(ms), fields), Duration::ZERO).unwrap();
    DecodedTick {
        qty: accepted.tick.qty,
        decimals: DECIMALS,
        rounded: false,
        accepted,
    }
}

fn fold_ticks(criterion: &mut Criterion) {
    let window = Duration::from_secs(10 * 60);
    let rules = Rules::new(Duration::from_secs(2), window, window);
    let ticks: Vec<DecodedTick> = (0..TICKS).map(tick).collect();
    let symbol = &ticks[0].accepted.tick.symbol;
    let mut group = criterion.benchmark_group("fold");
    group.throughput(Throughput::Elements(TICKS));
    group.bench_function("1,000 ticks of a symbol", |bench| {
        bench.iter_batched(
            || SymbolState::new(symbol.clone()),
            |mut state| {
                for tick in &ticks {
                    state.fold(tick, &rules).unwrap();
                }
                state
            },
            BatchSize::SmallInput,
        );
    });
}

fn recognize_trades(criterion: &mut Criterion) {
    let symbol = "BTCUSDT".parse().unwrap();
    let mut group = criterion.benchmark_group("dedup");
    group.throughput(Throughput::Elements(TICKS));
    for (name, step) in [("gapless", 1), ("with gaps", 3)] {
        group.bench_function(format!("1,000 {name} trade IDs"), |bench| {
            bench.iter_batched(
                || Dedup::new(Duration::from_secs(10 * 60)),
                |mut dedup| {
                    for at in 0..TICKS {
                        let (id, time, now_ms) = (TradeId::Number(at * step), TradeTime::of_ms(at.cast_signed()), at);
                        let trades = dedup.of(&symbol);
                        if !trades.contains(id, time, now_ms) {
                            trades.insert(id, time, now_ms);
                        }
                    }
                    dedup
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, fold_ticks, recognize_trades);
criterion_main!(benches);
