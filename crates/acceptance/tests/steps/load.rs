//! A feed that sends in the background.

use std::sync::Arc;
use std::time::Duration;

use acceptance::load::{Disposition, Entry, Load, Plan};
use acceptance::producer::{self, PARTITIONS};
use acceptance::publisher::{Pace, Publisher};
use cucumber::{then, when};
use storage_core::testing::polling::until_within;

use super::trades::{minute_us, trade};
use super::world::World;

/// Deadline of a feed, longer than any feed with its faults takes.
const FEED_PATIENCE: Duration = Duration::from_secs(900);

#[when(expr = "a feed starts sending {int} trades at {int} per second, with seed {int}")]
async fn begin(world: &mut World, entries: usize, rate: u32, seed: u64) {
    start(world, load(entries, seed), Pace::PerSecond(rate), seed);
}

/// Sends no trades of the same microsecond, whose order would change when some are sent again after later ones.
#[when(expr = "a feed starts sending {int} trades of distinct times at {int} per second, with seed {int}")]
async fn begin_with_different_times(world: &mut World, entries: usize, rate: u32, seed: u64) {
    let load = Load::new(&Plan {
        bad: 0.0,
        equal_times: 0.0,
        ..Plan::new(seed, entries)
    });
    start(world, load, Pace::PerSecond(rate), seed);
}

#[when(expr = "a feed starts sending {int} trades at full speed, with seed {int}")]
async fn begin_flat_out(world: &mut World, entries: usize, seed: u64) {
    start(world, load(entries, seed), Pace::Unlimited, seed);
}

/// Each new symbol opens candles, which the clock closes soon.
#[when(expr = "a feed starts sending {int} trades at {int} per second, every {int}th of a new symbol, with seed {int}")]
async fn begin_with_new_symbols(world: &mut World, entries: usize, rate: u32, nth: usize, seed: u64) {
    let mut load = load(entries, seed);
    for (number, entry) in load.entries.iter_mut().step_by(nth).enumerate() {
        if entry.disposition == Disposition::Counted {
            entry.trade.symbol = format!("NEW{number}");
            entry.partition = producer::partition(&entry.trade.symbol, PARTITIONS);
        }
    }
    start(world, load, Pace::PerSecond(rate), seed);
}

/// Sends seven of eight trades for one of three busy symbols, and the others for all symbols in turn. All are in this
/// minute, however long the feed lasts.
#[when(expr = "a feed starts sending {int} trades of {int} symbols in this minute at {int} per second")]
async fn begin_in_this_minute(world: &mut World, entries: usize, symbols: usize, rate: u32) {
    let start_us = minute_us(world, 0);
    let entry = |(number, ts_us): (usize, i64)| {
        let symbol = match number % 8 {
            7 => format!("FRESH{}", number / 8 % symbols),
            _ => format!("FRESH{}", number % 3),
        };
        let price = (100 + number * 37 % 101).to_string();
        let qty = (1 + number % 7).to_string();
        Entry {
            partition: producer::partition(&symbol, PARTITIONS),
            trade: trade(&symbol, ts_us, &price, &qty, Some(number.to_string())),
            disposition: Disposition::Counted,
        }
    };
    let load = Load {
        entries: (0..entries).zip(start_us..).map(entry).collect(),
        heartbeats: Vec::new(),
    };
    send(world, load, Pace::PerSecond(rate));
}

fn load(entries: usize, seed: u64) -> Load {
    Load::new(&Plan {
        bad: 0.0,
        ..Plan::new(seed, entries)
    })
}

fn start(world: &mut World, load: Load, pace: Pace, seed: u64) {
    println!("the feed's seed is {seed}");
    send(world, load, pace);
}

fn send(world: &mut World, load: Load, pace: Pace) {
    // The oracle drops the duplicates.
    let trades = load.entries.iter().map(|entry| entry.trade.clone());
    world.trades.extend(trades);
    let config = world.pipeline.redis().config_for("feed-handler");
    world.feed = Some(Publisher::start(Arc::new(load), &config, pace));
}

#[then("all trades have arrived")]
async fn arrived(world: &mut World) {
    until_within(FEED_PATIENCE, "the feed", async || world.feed().done()).await;
}

#[then(expr = "every stream is drained within {int} seconds")]
async fn drained_within(world: &mut World, seconds: u64) {
    until_within(Duration::from_secs(seconds), "the streams", async || {
        world.pipeline.drained().await
    })
    .await;
}
