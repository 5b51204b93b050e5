//! How fast hot-writer empties streams that are full, and what that costs Redis.

use super::drain::{Cost, hot_writer};
use super::load::{Load, Loaded};
use crate::bench::Bench;
use crate::figure::{Figure, Reach, Samples};

/// Symbols of the figure that the others are compared with.
pub(crate) const SYMBOLS: usize = 500;

/// How the streams were filled and who empties them, once for all figures of this file.
const EXPLAINED: &str = "hot-writer (default configuration, one copy, all four partitions, six timeframes) empties streams that hold a \
    backlog as a feed of 10,000 ticks/s leaves it, its symbols traded by Zipf's law unless all alike (`--uniform`). It runs and \
    waits when the full streams are renamed to where it reads; the time ends when its group has finished every stream. The \
    limit is a bare client that XREADs the same streams, one after the other, 5,000 entries at a time, and scans each \
    reply only for its end.";

const TICKS: &str = "ticks/s";

/// One round: the bare client, then hot-writer, on the same streams in the same Redis.
pub(crate) async fn round(bench: &Bench, load: Load) -> anyhow::Result<(Cost, Cost)> {
    let loaded = Loaded::new(bench, load).await?;
    let worker = &mut hot_writer(bench, &loaded.redis).await?;
    let limit = loaded.read_barely().await?;
    Ok((limit, loaded.drain(worker).await?))
}

/// hot-writer at 500 symbols against the bare client, and what both cost Redis.
pub(crate) async fn drain(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let mut speed = Figure::new(
        "hot-writer, 500 symbols",
        EXPLAINED,
        TICKS,
        "bare XREAD",
        Reach::AtLeast(0.6),
    );
    let mut server = Figure::new(
        "… CPU of Redis a tick",
        "Processor time of the Redis server (`INFO cpu`, user and system) in the rounds of the figure above, by ticks.",
        "µs",
        "bare XREAD",
        Reach::AtMost(1.5),
    );
    let mut commands = Figure::new(
        "… commands a tick",
        "`total_commands_processed` in the rounds of the figure above, by ticks. Redis counts the commands that a function calls beside \
         the call itself, so this is more than what goes over the network.",
        "commands",
        "bare XREAD",
        Reach::OursAtMost(2.0),
    );
    let load = bench.load(bench.sized(2_000_000, 400_000), SYMBOLS);
    for _ in 0..bench.rounds {
        let (limit, ours) = round(bench, load).await?;
        speed.push(load.per_second(&ours), load.per_second(&limit));
        server.push(ours.server_us, limit.server_us);
        commands.push(ours.commands, limit.commands);
    }
    // The bare client sends one for 5,000 ticks: how many times more says nothing.
    commands.ratio = Samples::default();
    Ok(vec![speed, server, commands])
}

/// hot-writer at more symbols against itself at 500.
pub(crate) async fn symbols(bench: &Bench) -> anyhow::Result<Vec<Figure>> {
    let figure = |name, least| Figure::new(name, EXPLAINED, TICKS, "itself, 500 symbols", Reach::AtLeast(least));
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

/// hot-writer's ticks a second.
pub(crate) async fn rate(bench: &Bench, load: Load) -> anyhow::Result<f64> {
    let loaded = Loaded::new(bench, load).await?;
    let worker = &mut hot_writer(bench, &loaded.redis).await?;
    Ok(load.per_second(&loaded.drain(worker).await?))
}
