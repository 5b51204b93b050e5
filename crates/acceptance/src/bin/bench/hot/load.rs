//! Load of the measurements: ticks generated from a seed, as the backlog that a feed leaves without a reader.

use std::time::SystemTime;

use acceptance::producer::PARTITIONS;
use acceptance::producer::partition;
use acceptance::redis_server::RedisServer;
use anyhow::Context;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tokio::task::spawn_blocking;
use tokio::time::{Duration, sleep};

use super::client::Client;
use crate::bench::Bench;

/// Ticks per second of event time.
pub(crate) const FEED_TICKS_PER_S: u64 = 10_000;
/// Entries in a pipeline.
const PIPELINE: u64 = 1_000;

/// Parameters of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) ticks: u64,
    pub(crate) symbols: usize,
    pub(crate) seed: u64,
    pub(crate) popularity: Popularity,
}

impl Bench {
    /// Returns a load with the seed and the popularity of the command line.
    pub(crate) fn load(&self, ticks: u64, symbols: usize) -> Load {
        let popularity = if self.uniform {
            Popularity::Uniform
        } else {
            Popularity::Zipf
        };
        Load {
            ticks,
            symbols,
            seed: self.seed,
            popularity,
        }
    }
}

/// Distribution of ticks over symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Popularity {
    /// Zipf's law: the n-th symbol is traded 1/n times as often as the first, about as on exchanges.
    Zipf,
    /// Equal shares: the worst case, because every batch changes the most symbols.
    Uniform,
}

/// A tick with its fields as text, and the index of its symbol.
pub(crate) struct Tick {
    pub(crate) symbol: usize,
    pub(crate) ts_us: u64,
    pub(crate) price: String,
    pub(crate) qty: String,
    pub(crate) trade_id: u64,
    pub(crate) side: &'static str,
}

/// Endless feed of ticks: prices follow a random walk, trade IDs of a symbol have no gaps.
pub(crate) struct Feed {
    rng: Xoshiro256PlusPlus,
    /// Cumulative weights of the symbols.
    popularity: Vec<f64>,
    cents: Vec<u64>,
    trades: Vec<u64>,
}

impl Feed {
    pub(crate) fn new(load: &Load) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(load.seed);
        let mut sum = 0.0;
        let popularity = (1..=load.symbols).map(|rank| {
            sum += match load.popularity {
                Popularity::Zipf => 1.0 / rank as f64,
                Popularity::Uniform => 1.0,
            };
            sum
        });
        Self {
            popularity: popularity.collect(),
            cents: (0..load.symbols)
                .map(|_| rng.random_range(10_000..10_000_000))
                .collect(),
            trades: vec![1_000_000; load.symbols],
            rng,
        }
    }

    /// Returns the next tick, with this event time.
    pub(crate) fn tick(&mut self, ts_us: u64) -> Tick {
        let chosen = self.rng.random::<f64>() * self.popularity.last().copied().unwrap_or_default();
        let symbol = self
            .popularity
            .partition_point(|sum| *sum <= chosen)
            .min(self.cents.len() - 1);
        let cents = &mut self.cents[symbol];
        *cents = (*cents + self.rng.random_range(0..=20)).saturating_sub(10).max(100);
        let cents = *cents;
        let thousandths = self.rng.random_range(1..50_000_u32);
        self.trades[symbol] += 1;
        Tick {
            symbol,
            ts_us,
            price: format!("{}.{:02}", cents / 100, cents % 100),
            qty: format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000),
            trade_id: self.trades[symbol],
            side: if self.rng.random() { "buy" } else { "sell" },
        }
    }
}

/// Returns the symbols of a load by rank, each with its partition of `partitions`.
pub(crate) fn symbols(count: usize, partitions: u16) -> Vec<(String, u16)> {
    let name = |at: usize| {
        let name = format!("S{at:06}USD");
        let partition = partition(&name, partitions);
        (name, partition)
    };
    (0..count).map(name).collect()
}

/// A Redis that contains a load.
pub(crate) struct LoadedRedis {
    pub(crate) redis: RedisServer,
    pub(crate) load: Load,
    /// ID of the last entry of each partition; `None` if it has no entries.
    pub(crate) last_ids: Vec<Option<String>>,
    /// Size of all field values as text.
    pub(crate) payload_bytes: u64,
}

/// Returns the key of a stream until [`LoadedRedis::publish`] renames it.
pub(crate) fn staging_stream(partition: u16) -> String {
    format!("staging:ticks:{partition}")
}

pub(crate) fn stream(partition: u16) -> String {
    format!("stream:ticks:{partition}")
}

impl LoadedRedis {
    /// Starts a Redis and adds the ticks to staging streams, which no worker reads, with the real groups. Entry IDs are
    /// those of a feed of [`FEED_TICKS_PER_S`] that ends now. Returns when Redis is idle.
    pub(crate) async fn new(bench: &Bench, load: Load) -> anyhow::Result<Self> {
        let redis = bench.redis().await?;
        // Persistence is off, because this fast feed would make Redis rewrite its files continuously.
        for setting in [["appendonly", "no"], ["save", ""]] {
            redis.ask::<()>(&["CONFIG", "SET", setting[0], setting[1]]).await?;
        }
        for partition in 0..PARTITIONS {
            for group in ["hot-writer", "warm-syncer"] {
                let key = staging_stream(partition);
                redis
                    .ask::<()>(&["XGROUP", "CREATE", &key, group, "0", "MKSTREAM"])
                    .await?;
            }
        }
        let port = redis.port()?;
        let (last_ids, payload_bytes) = spawn_blocking(move || fill(port, &load)).await??;
        redis.ask::<()>(&["CONFIG", "SET", "appendonly", "yes"]).await?;
        let loaded = Self {
            redis,
            load,
            last_ids,
            payload_bytes,
        };
        loaded.wait_until_idle().await?;
        Ok(loaded)
    }

    /// Waits until Redis writes no files in the background.
    async fn wait_until_idle(&self) -> anyhow::Result<()> {
        loop {
            let info: String = self.redis.ask(&["INFO", "persistence"]).await?;
            if info
                .lines()
                .filter(|line| line.contains("_in_progress:") || line.contains("_scheduled:"))
                .all(|line| line.ends_with(":0"))
            {
                return Ok(());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Renames the streams to those that workers read, in one transaction.
    pub(crate) async fn publish(&self) -> anyhow::Result<()> {
        let mut renames = redis::pipe();
        renames.atomic();
        for partition in 0..PARTITIONS {
            renames
                .cmd("RENAME")
                .arg(staging_stream(partition))
                .arg(stream(partition))
                .ignore();
        }
        renames
            .exec_async(&mut self.redis.connect())
            .await
            .context("rename the streams")
    }
}

fn fill(port: u16, load: &Load) -> anyhow::Result<(Vec<Option<String>>, u64)> {
    let mut client = Client::operator(port)?;
    let (names, mut feed) = (symbols(load.symbols, PARTITIONS), Feed::new(load));
    let keys: Vec<String> = (0..PARTITIONS).map(staging_stream).collect();
    let mut last_ids = vec![None; keys.len()];
    let (mut last_ms, mut sequence) = (0, 0);
    let (mut payload_bytes, mut unanswered) = (0, 0);
    let now_us = u64::try_from(SystemTime::UNIX_EPOCH.elapsed()?.as_micros())?;
    let begin_us = now_us - load.ticks * 1_000_000 / FEED_TICKS_PER_S;
    for at in 0..load.ticks {
        let tick = feed.tick(begin_us + at * 1_000_000 / FEED_TICKS_PER_S);
        let (name, partition) = &names[tick.symbol];
        let ms = tick.ts_us / 1_000;
        sequence = if ms == last_ms { sequence + 1 } else { 0 };
        last_ms = ms;
        let id = format!("{ms}-{sequence}");
        payload_bytes += tick.pack_xadd(&mut client, &keys[usize::from(*partition)], &id, name);
        last_ids[usize::from(*partition)] = Some(id);
        if (at + 1) % PIPELINE == 0 || at + 1 == load.ticks {
            client.send()?;
            client.skip(std::mem::replace(&mut unanswered, usize::try_from(at % PIPELINE + 1)?))?;
        }
    }
    client.skip(unanswered)?;
    Ok((last_ids, payload_bytes))
}

impl Tick {
    /// Packs the tick's XADD and returns the size of its values in bytes.
    pub(crate) fn pack_xadd(&self, client: &mut Client, key: &str, id: &str, name: &str) -> u64 {
        let (ts_us, trade_id) = (self.ts_us.to_string(), self.trade_id.to_string());
        let fields = [
            ["symbol", name],
            ["ts_us", &ts_us],
            ["price", &self.price],
            ["qty", &self.qty],
            ["trade_id", &trade_id],
            ["side", self.side],
        ];
        let mut parts: Vec<&[u8]> = vec![b"XADD", key.as_bytes(), id.as_bytes()];
        parts.extend(fields.as_flattened().iter().map(|part| part.as_bytes()));
        client.pack(&parts);
        fields.iter().map(|[_, value]| value.len() as u64).sum()
    }
}
