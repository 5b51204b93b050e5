//! Baseline: the work of hot-writer done by plain Python, `python/hot_worker.py`.

use acceptance::producer::PARTITIONS;
use anyhow::{Context, ensure};

use super::drain::BATCH_ENTRIES;
use super::load::LoadedRedis;
use super::throughput::{SYMBOLS, rate};
use crate::bench::Bench;
use crate::figure::{Figure, Target};

/// Compares hot-writer with `python/hot_worker.py`.
pub(crate) async fn python(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut figure = Figure::new(
        "hot-writer, Python worker",
        "hot-writer drains the same streams as a Python worker (redis-py with hiredis, a consumer group, batches of \
         5,000, one pipeline of HSET, PEXPIRE, PUBLISH and XACK per batch). The Python worker is timed from its first \
         read to its last acknowledgement. It may lose ticks or count them twice when it is killed, and it does not \
         handle late ticks and duplicates.",
        "ticks/s",
        "redis-py",
        Target::AtLeast(4.0),
    );
    let load = bench.load(bench.sized(500_000, 200_000), SYMBOLS);
    for _ in 0..bench.rounds {
        let loaded = LoadedRedis::new(bench, load).await?;
        loaded.publish().await?;
        let arguments = [
            loaded.redis.url().to_owned(),
            PARTITIONS.to_string(),
            BATCH_ENTRIES.to_string(),
            load.ticks.to_string(),
        ];
        let worker = bench.python("hot_worker.py", &arguments.each_ref().map(String::as_str))?;
        let output = worker.wait_with_output().await?;
        ensure!(output.status.success(), "hot_worker.py failed: {}", output.status);
        let seconds: f64 = String::from_utf8(output.stdout)?
            .trim()
            .parse()
            .context("hot_worker.py printed no time")?;
        drop(loaded);
        figure.push(rate(bench, load).await?, load.ticks as f64 / seconds);
    }
    Ok(vec![figure])
}
