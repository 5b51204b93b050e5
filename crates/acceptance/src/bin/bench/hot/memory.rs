//! Memory of ticks and symbols in Redis and in hot-writer.

use std::fs;

use acceptance::producer::PARTITIONS;
use acceptance::redis_server::RedisServer;
use anyhow::Context;
use storage_core::domain::timeframe::Timeframe;

use super::drain::start_hot_writer;
use super::load::{LoadedRedis, stream, symbols};
use crate::bench::Bench;
use crate::figure::{Figure, Target};

const SYMBOLS: usize = 10_000;
/// Number of symbols whose hashes are measured.
const SAMPLED_SYMBOLS: usize = 200;
/// The numbers of a candle (`time open high low close volume trades first_us last_us revision since`) in eight bytes
/// each.
const CANDLE_BYTES: usize = 11 * 8;
/// A latest tick: price, quantity, time, trade ID and revision in eight bytes each.
const TICK_BYTES: usize = 5 * 8;

/// Measures memory at 10,000 symbols.
pub(crate) async fn memory(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut entry = Figure::new(
        "Redis, a stream entry",
        "`MEMORY USAGE` of the tick streams per tick, compared with the size of the six values as text. A stream \
         stores field names once per block.",
        "bytes",
        "text of the values",
        Target::OursAtMost(60.0),
    );
    let mut symbol = Figure::new(
        "Redis, a symbol",
        "`MEMORY USAGE` of a symbol's `tick:latest` and six `candle:current`, keys included, mean of 200 symbols, \
         compared with the size of their keys, fields and values as text.",
        "bytes",
        "their text",
        Target::None,
    );
    let mut worker_memory = Figure::new(
        "memory, 10,000 symbols",
        "Growth of hot-writer's resident memory (`VmRSS`) while it drains the streams, compared with eight bytes for \
         each number of a symbol's six candles and latest tick, and the symbol's name.",
        "MiB",
        "the bare numbers",
        Target::None,
    );
    let load = bench.load(bench.sized(2_000_000, 300_000), SYMBOLS);
    for _ in 0..bench.rounds {
        let loaded = LoadedRedis::new(bench, load).await?;
        let worker = &mut start_hot_writer(bench, &loaded.redis).await?;
        let before = resident_bytes(worker.id())?;
        loaded.drain_by_hot_writer(worker).await?;
        let after = resident_bytes(worker.id())?;

        let mut streams = 0;
        for partition in 0..PARTITIONS {
            streams += usage(&loaded.redis, &stream(partition)).await?.unwrap_or_default();
        }
        entry.push(
            streams as f64 / load.ticks as f64,
            loaded.payload_bytes as f64 / load.ticks as f64,
        );
        let (bytes, text) = hashes(&loaded.redis).await?;
        symbol.push(bytes, text);
        let name = symbols(1, PARTITIONS)[0].0.len();
        let least = SYMBOLS * (name + Timeframe::ALL.len() * CANDLE_BYTES + TICK_BYTES);
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        worker_memory.push(mib(after.saturating_sub(before)), mib(least));
    }
    Ok(vec![entry, symbol, worker_memory])
}

/// Returns the mean memory of a symbol's hashes and the mean size of their text, in bytes.
async fn hashes(redis: &RedisServer) -> anyhow::Result<(f64, f64)> {
    let (mut bytes, mut text) = (0, 0);
    for (name, _) in symbols(SAMPLED_SYMBOLS, PARTITIONS) {
        let candles = Timeframe::ALL.map(|timeframe| format!("candle:current:{timeframe}:{name}"));
        for key in candles.into_iter().chain([format!("tick:latest:{name}")]) {
            bytes += usage(redis, &key).await?.with_context(|| format!("no {key}"))?;
            let fields: Vec<String> = redis.ask(&["HGETALL", &key]).await?;
            text += key.len() + fields.iter().map(String::len).sum::<usize>();
        }
    }
    Ok((
        bytes as f64 / SAMPLED_SYMBOLS as f64,
        text as f64 / SAMPLED_SYMBOLS as f64,
    ))
}

/// Returns the exact memory of a key: without sampling.
async fn usage(redis: &RedisServer, key: &str) -> anyhow::Result<Option<u64>> {
    Ok(redis.ask(&["MEMORY", "USAGE", key, "SAMPLES", "0"]).await?)
}

fn resident_bytes(process: u32) -> anyhow::Result<usize> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: usize = line.context("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
