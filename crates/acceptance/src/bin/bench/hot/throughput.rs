//! Throughput of hot-writer while it drains a backlog, and its cost in Redis.

use super::drain::{Cost, start_hot_writer};
use super::load::{Load, LoadedRedis};
use crate::bench::Bench;
use crate::figure::{Figure, Samples, Target};

/// Number of symbols of the figure that the others are compared with.
pub(crate) const SYMBOLS: usize = 500;

const DESCRIPTION: &str = "hot-writer (default configuration, one replica, all four partitions, six timeframes) \
    drains the backlog of a feed of 10,000 ticks/s, whose symbols are traded by Zipf's law, or equally often with \
    `--uniform`. It is ready when the full streams are renamed to those that it reads; the time ends when its group \
    has finished every stream. The baseline is a bare client that XREADs the same streams, one after the other, 5,000 \
    entries at a time, and scans each reply only for its end.";

const TICKS: &str = "ticks/s";

/// Drains the same streams of one Redis first by the bare client, then by hot-writer. Returns the costs in this order.
pub(crate) async fn round(bench: &Bench, load: Load) -> anyhow::Result<(Cost, Cost)> {
    let loaded = LoadedRedis::new(bench, load).await?;
    let worker = &mut start_hot_writer(bench, &loaded.redis).await?;
    let bare = loaded.drain_by_bare_client().await?;
    Ok((bare, loaded.drain_by_hot_writer(worker).await?))
}

/// Compares hot-writer at 500 symbols with the bare client, in throughput and in cost for Redis.
pub(crate) async fn drain(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut speed = Figure::new(
        "hot-writer, 500 symbols",
        DESCRIPTION,
        TICKS,
        "bare XREAD",
        Target::AtLeast(0.6),
    );
    let mut server = Figure::new(
        "… CPU of Redis a tick",
        "CPU time of the Redis server (`INFO cpu`, user and system) in the rounds of the figure above, per tick.",
        "µs",
        "bare XREAD",
        Target::AtMost(1.5),
    );
    let mut commands = Figure::new(
        "… commands a tick",
        "`total_commands_processed` in the rounds of the figure above, per tick. Redis also counts the commands that \
         a function calls, so this is more than the commands sent over the network.",
        "commands",
        "bare XREAD",
        Target::OursAtMost(2.0),
    );
    let load = bench.load(bench.sized(2_000_000, 400_000), SYMBOLS);
    for _ in 0..bench.rounds {
        let (bare, ours) = round(bench, load).await?;
        speed.push(ours.ticks_per_s(), bare.ticks_per_s());
        server.push(ours.server_us, bare.server_us);
        commands.push(ours.commands, bare.commands);
    }
    // The bare client sends one command for 5,000 ticks, so the ratio has no meaning.
    commands.ratio = Samples::default();
    Ok(vec![speed, server, commands])
}

/// Compares hot-writer at 10,000 and 100,000 symbols with itself at 500.
pub(crate) async fn symbols(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let figure = |name, least| Figure::new(name, DESCRIPTION, TICKS, "itself, 500 symbols", Target::AtLeast(least));
    let mut figures = vec![
        (10_000, figure("hot-writer, 10,000 symbols", 0.7)),
        (100_000, figure("hot-writer, 100,000 symbols", 0.4)),
    ];
    let ticks = bench.sized(2_000_000, 400_000);
    for _ in 0..bench.rounds {
        let few = rate(bench, bench.load(ticks, SYMBOLS)).await?;
        for (symbols, figure) in &mut figures {
            figure.push(rate(bench, bench.load(ticks, *symbols)).await?, few);
        }
    }
    Ok(figures.into_iter().map(|(_, figure)| figure).collect())
}

/// Returns the ticks per second of hot-writer.
pub(crate) async fn rate(bench: &Bench, load: Load) -> anyhow::Result<f64> {
    let loaded = LoadedRedis::new(bench, load).await?;
    let worker = &mut start_hot_writer(bench, &loaded.redis).await?;
    Ok(loaded.drain_by_hot_writer(worker).await?.ticks_per_s())
}
