//! What ticks and symbols take up, in Redis and in hot-writer.

use std::fs;

use acceptance::pipeline::PARTITIONS;
use acceptance::redis_server::RedisServer;
use anyhow::Context;
use storage_core::domain::timeframe::Timeframe;

use super::drain::hot_writer;
use super::load::{Loaded, stream, symbols};
use crate::bench::Bench;
use crate::figure::{Figure, Reach};

const SYMBOLS: usize = 10_000;
/// How many symbols' hashes are looked at.
const LOOKED_AT: usize = 200;
/// The numbers of a candle (`time open high low close volume trades first_us last_us revision since`) in eight bytes each.
const CANDLE_BYTES: usize = 11 * 8;
/// A latest tick: price, quantity, time, trade ID and revision in eight bytes each.
const TICK_BYTES: usize = 5 * 8;

/// All of it at 10,000 symbols.
pub(crate) async fn memory(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut entry = Figure::new(
        "Redis, a stream entry",
        "`MEMORY USAGE` of the tick streams by ticks, against the bytes of the text of the six values; their names are in the streams \
         once a block.",
        "bytes",
        "text of the values",
        Reach::OursAtMost(60.0),
    );
    let mut symbol = Figure::new(
        "Redis, a symbol",
        "`MEMORY USAGE` of a symbol's `tick:latest` and six `candle:current`, keys included, mean of 200 symbols, against the bytes of \
         the text of their keys, fields and values.",
        "bytes",
        "their text",
        Reach::Reported,
    );
    let mut worker_memory = Figure::new(
        "memory of hot-writer, 10,000 symbols",
        "Resident memory (`VmRSS`) that hot-writer has more after it has emptied the streams than before, against eight bytes for each \
         number of six candles and a tick for each symbol, and the symbol's name.",
        "MiB",
        "the bare numbers",
        Reach::Reported,
    );
    let load = bench.load(bench.sized(2_000_000, 300_000), SYMBOLS);
    for _ in 0..bench.rounds {
        let loaded = Loaded::new(bench, load).await?;
        let worker = &mut hot_writer(bench, &loaded.redis).await?;
        let before = resident_bytes(worker.id())?;
        loaded.drain(worker).await?;
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
        let name = symbols(1)[0].0.len();
        let least = SYMBOLS * (name + Timeframe::ALL.len() * CANDLE_BYTES + TICK_BYTES);
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        worker_memory.push(mib(after.saturating_sub(before)), mib(least));
    }
    Ok(vec![entry, symbol, worker_memory])
}

/// Memory of a symbol's hashes and the bytes of their text, the mean of those that have all of them.
async fn hashes(redis: &RedisServer) -> anyhow::Result<(f64, f64)> {
    let (mut bytes, mut text) = (0, 0);
    for (name, _) in symbols(LOOKED_AT) {
        let candles = Timeframe::ALL.map(|timeframe| format!("candle:current:{timeframe}:{name}"));
        for key in candles.into_iter().chain([format!("tick:latest:{name}")]) {
            bytes += usage(redis, &key).await?.with_context(|| format!("no {key}"))?;
            let fields: Vec<String> = redis.ask(&["HGETALL", &key]).await?;
            text += key.len() + fields.iter().map(String::len).sum::<usize>();
        }
    }
    Ok((bytes as f64 / LOOKED_AT as f64, text as f64 / LOOKED_AT as f64))
}

/// All of it, not an estimate by samples.
async fn usage(redis: &RedisServer, key: &str) -> anyhow::Result<Option<u64>> {
    Ok(redis.ask(&["MEMORY", "USAGE", key, "SAMPLES", "0"]).await?)
}

fn resident_bytes(process: u32) -> anyhow::Result<usize> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: usize = line.context("no VmRSS")?.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
