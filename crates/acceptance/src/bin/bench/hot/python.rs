//! The same job as people do it today: a plain worker in Python.

use acceptance::pipeline::PARTITIONS;
use anyhow::{Context, ensure};

use super::drain::BATCH_ENTRIES;
use super::load::Loaded;
use super::throughput::{SYMBOLS, rate};
use crate::bench::Bench;
use crate::figure::{Figure, Reach};

/// hot-writer against `python/hot_worker.py`.
pub(crate) async fn python(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut figure = Figure::new(
        "hot-writer, by a plain worker in Python",
        "hot-writer empties the same streams as a worker in Python does (redis-py with hiredis, a consumer group, batches of 5,000, one \
         pipeline of HSET, PEXPIRE, PUBLISH and XACK a batch), which measures itself from its first read to its last acknowledgement. \
         Unlike ours it may lose or double ticks when it is killed, and knows neither late nor repeated ones.",
        "ticks/s",
        "redis-py",
        Reach::AtLeast(4.0),
    );
    let load = bench.load(bench.sized(500_000, 200_000), SYMBOLS);
    for _ in 0..bench.rounds {
        let loaded = Loaded::new(bench, load).await?;
        loaded.publish().await?;
        let arguments = [
            loaded.redis.port()?.to_string(),
            PARTITIONS.to_string(),
            BATCH_ENTRIES.to_string(),
            load.ticks.to_string(),
        ];
        let worker = bench.python("hot_worker.py", &arguments.each_ref().map(String::as_str))?;
        let output = worker.wait_with_output().await?;
        ensure!(output.status.success(), "the worker in Python has failed");
        let seconds: f64 = String::from_utf8(output.stdout)?.trim().parse().context("its time")?;
        drop(loaded);
        figure.push(rate(bench, load).await?, load.ticks as f64 / seconds);
    }
    Ok(vec![figure])
}
