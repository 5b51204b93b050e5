//! Baseline: candles from RedisTimeSeries and its compaction rules.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use acceptance::producer::PARTITIONS;
use anyhow::Context;
use storage_core::domain::timeframe::Timeframe;
use storage_core::testing::polling::PATIENCE;
use storage_core::testing::process::{ServerProcess, free_port, project, text};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

use super::client::Client;
use super::drain::BATCH_ENTRIES;
use super::load::{FEED_TICKS_PER_S, Feed, Load, symbols};
use super::throughput::{SYMBOLS, rate};
use crate::bench::Bench;
use crate::figure::{Figure, Samples, Target};

/// Aggregates of the price series and of the quantity series.
const RULES: [(&str, &[&str]); 2] = [("price", &["first", "max", "min", "last"]), ("qty", &["sum", "count"])];

/// Compares hot-writer with TS.MADD.
pub(crate) async fn timeseries(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut figure = Figure::new(
        "hot-writer, RedisTimeSeries",
        "One client sends the same ticks by TS.MADD, 5,000 at a time and one command ahead, to a price series and a \
         quantity series per symbol, with compaction rules for open, high, low, close, volume and trades in six \
         timeframes and the same redis.conf. It does less than hot-writer: it publishes nothing, writes no hash and \
         reads no tick back.",
        "ticks/s",
        "TS.MADD",
        Target::AtLeast(1.5),
    );
    let load = bench.load(bench.sized(1_000_000, 200_000), SYMBOLS);
    let Some(folder) = std::env::var_os("BENCH_REDIS_STACK")
        .map(PathBuf::from)
        .filter(|folder| folder.exists())
    else {
        figure.ours = Samples(vec![rate(bench, load).await?]);
        figure.note = Some("no baseline: the wheel with RedisTimeSeries could not be installed".to_owned());
        return Ok(vec![figure]);
    };
    for _ in 0..bench.rounds {
        let (server, port) = start(&folder).await?;
        let took = spawn_blocking(move || add_all(port, &load)).await??;
        drop(server);
        figure.push(rate(bench, load).await?, load.ticks as f64 / took.as_secs_f64());
    }
    Ok(vec![figure])
}

/// Starts a Redis with the module and the project's configuration, and returns its port.
async fn start(stack: &Path) -> anyhow::Result<(ServerProcess, u16)> {
    let port = free_port()?;
    let folder = TempDir::new()?;
    let (program, libraries) = (stack.join("bin/redis-server"), stack.join("lib"));
    let (module, conf) = (libraries.join("redistimeseries.so"), project().join("redis/redis.conf"));
    let (data, number) = (text(folder.path())?.to_owned(), port.to_string());
    let command = [
        "env",
        &format!("LD_LIBRARY_PATH={}", text(&libraries)?),
        text(&program)?,
        text(&conf)?,
        "--port",
        &number,
        "--dir",
        &data,
        "--loadmodule",
        text(&module)?,
    ];
    let server = ServerProcess::start(&command, "KILL", folder)?;
    let ready = server.until(PATIENCE, async || {
        let mut client = Client::connect(port).ok()?;
        client.pack(&[b"PING"]);
        client.send().ok()?;
        client.skip(1).ok()
    });
    ready.await.context("start a Redis with RedisTimeSeries")?;
    Ok((server, port))
}

/// Creates the series, adds the ticks and returns the time that adding took.
fn add_all(port: u16, load: &Load) -> anyhow::Result<Duration> {
    let mut client = Client::connect(port)?;
    let names = symbols(load.symbols, PARTITIONS);
    for (name, _) in &names {
        let replies = create(&mut client, name);
        client.send()?;
        client.skip(replies)?;
    }
    let mut feed = Feed::new(load);
    let batch = u64::try_from(BATCH_ENTRIES)?;
    let (begun, mut unanswered) = (Instant::now(), 0);
    for first in (0..load.ticks).step_by(BATCH_ENTRIES) {
        let mut parts: Vec<Vec<u8>> = vec![b"TS.MADD".to_vec()];
        for at in first..load.ticks.min(first + batch) {
            // The ticks start with a minute. Timestamps are in µs, so that no two ticks of a symbol have the same one.
            let tick = feed.tick(1_700_000_040_000_000 + at * 1_000_000 / FEED_TICKS_PER_S);
            let (name, ts_us) = (&names[tick.symbol].0, tick.ts_us.to_string().into_bytes());
            parts.extend([
                format!("price:{name}").into_bytes(),
                ts_us.clone(),
                tick.price.into_bytes(),
            ]);
            parts.extend([format!("qty:{name}").into_bytes(), ts_us, tick.qty.into_bytes()]);
        }
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        client.pack(&parts);
        client.send()?;
        client.skip(std::mem::replace(&mut unanswered, 1))?;
    }
    client.skip(unanswered)?;
    Ok(begun.elapsed())
}

/// Packs the commands that create the series of a symbol, and returns their number.
fn create(client: &mut Client, symbol: &str) -> usize {
    let mut commands = 0;
    for (value, aggregates) in RULES {
        let source = format!("{value}:{symbol}");
        client.pack(&[b"TS.CREATE", source.as_bytes()]);
        commands += 1;
        for timeframe in Timeframe::ALL {
            let bucket_us = timeframe.micros().to_string();
            for aggregate in aggregates {
                let candle = format!("{source}:{timeframe}:{aggregate}");
                client.pack(&[b"TS.CREATE", candle.as_bytes(), b"CHUNK_SIZE", b"128"]);
                client.pack(&[
                    b"TS.CREATERULE",
                    source.as_bytes(),
                    candle.as_bytes(),
                    b"AGGREGATION",
                    aggregate.as_bytes(),
                    bucket_us.as_bytes(),
                ]);
                commands += 2;
            }
        }
    }
    commands
}
