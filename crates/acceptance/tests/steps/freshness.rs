//! The order and the age in which open candles are published.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use acceptance::faults::NetworkFault;
use acceptance::network::Store;
use cucumber::{then, when};
use storage_core::testing::polling::until;

use super::check::check;
use super::world::World;

/// Fields of a candle's hash.
const FIELDS: [&str; 12] = [
    "close", "final", "first_us", "high", "last_us", "low", "open", "revision", "since", "time", "trades", "volume",
];

/// Returns the symbols of the messages with 1-minute candles, in order.
fn published(world: &World) -> Vec<String> {
    let messages = world.notes.messages.lock().unwrap();
    let symbols = messages
        .iter()
        .filter_map(|(channel, _)| channel.strip_prefix("candle:1m:"));
    symbols.map(str::to_owned).collect()
}

fn symbols(world: &World) -> BTreeSet<String> {
    world.trades.iter().map(|trade| trade.symbol.clone()).collect()
}

#[then("open candles wait to be written")]
async fn candles_wait(world: &mut World) {
    let worker = world.pipeline.worker("hot-writer");
    until("waiting candles", async || {
        let waiting = worker.metrics().await.get("hot_writer_waiting_candles_count").copied();
        check(waiting.is_some_and(|waiting| waiting > 0.0), "more than 0", waiting)
    })
    .await;
}

#[when(expr = "the hash {word} is deleted")]
async fn hash_deleted(world: &mut World, key: String) {
    let deleted: u64 = world.pipeline.redis().ask(&["DEL", &key]).await.unwrap();
    assert_eq!(deleted, 1, "{key}");
}

/// Reads the hash in the middle of the feed, so that a hash with some of the fields would be seen.
#[then(expr = "the hash {word} is written whole again")]
async fn whole_again(world: &mut World, key: String) {
    let hash = until(&key, async || {
        let hash = world.pipeline.hash(&key).await?;
        check(!hash.is_empty(), "a hash", &hash).map(|()| hash)
    })
    .await;
    assert!(hash.keys().eq(FIELDS), "expected {FIELDS:?}, found {hash:?}");
    assert!(world.feed().done().is_err(), "the feed has ended");
}

#[then(expr = "the open 1-minute candle of every symbol is published {int} times or more")]
async fn published_again(world: &mut World, times: usize) {
    let symbols = symbols(world);
    until("messages of every symbol", async || {
        let mut counts: BTreeMap<String, usize> = symbols.iter().map(|symbol| (symbol.clone(), 0)).collect();
        for symbol in published(world) {
            *counts.entry(symbol).or_default() += 1;
        }
        check(counts.values().all(|count| *count >= times), times, &counts)
    })
    .await;
    assert!(world.feed().done().is_err(), "the feed has ended");
}

/// Compares the messages from the time on at which every symbol has one: before, unused budget is spent on the first
/// symbols.
#[then(expr = "between two messages of a symbol's 1-minute candle no other symbol has more than {int}")]
async fn published_in_turn(world: &mut World, most: usize) {
    let expected = symbols(world).len();
    let mut seen = BTreeSet::new();
    // Messages of the other symbols since the last message of each symbol.
    let mut since: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    let mut found = 0;
    for symbol in published(world) {
        seen.insert(symbol.clone());
        if seen.len() < expected {
            continue;
        }
        for (_, others) in since.iter_mut().filter(|(other, _)| **other != symbol) {
            *others.entry(symbol.clone()).or_default() += 1;
        }
        let others = since.insert(symbol.clone(), BTreeMap::new()).unwrap_or_default();
        found = others.values().copied().max().unwrap_or_default().max(found);
        assert!(found <= most, "between two messages of {symbol}: {others:?}");
    }
    println!("between two messages of a symbol, another one had at most {found}");
    assert!(found > 0, "no symbol was published twice");
}

/// Returns the number of published 1-minute candles that were at most 250 ms old, and of all.
async fn ages(world: &World) -> (f64, f64) {
    let metrics = world.pipeline.worker("hot-writer").metrics().await;
    let name = "hot_writer_candle_age_seconds";
    let fresh = metrics.get(&format!("{name}_bucket{{timeframe=\"1m\",le=\"0.25\"}}"));
    let all = metrics.get(&format!("{name}_count{{timeframe=\"1m\"}}"));
    (*fresh.expect("a bucket of 250 ms"), *all.expect("a count"))
}

#[then("open 1-minute candles are published that are at most 250 ms old")]
async fn are_fresh(world: &mut World) {
    let (before, _) = ages(world).await;
    until("fresh candles", async || {
        let (fresh, _) = ages(world).await;
        check(fresh > before, format!("more than {before}"), fresh)
    })
    .await;
    assert!(world.feed().done().is_err(), "the feed has ended");
}

#[when(expr = "the network to Redis delays all data by {int} ms for {int} seconds")]
async fn network_delays(world: &mut World, ms: u64, seconds: u64) {
    let fault = NetworkFault::Slow(Duration::from_millis(ms));
    let lasts = Duration::from_secs(seconds);
    let begin = async {
        // Candles that are on their way when the delay begins may be fresh.
        tokio::time::sleep(2 * Duration::from_millis(ms)).await;
        ages(world).await
    };
    let end = async {
        tokio::time::sleep(lasts - Duration::from_millis(ms)).await;
        ages(world).await
    };
    let delay = world.pipeline.fail_network(fault, Some(Store::Redis), lasts);
    let ((), begin, end) = tokio::join!(delay, begin, end);
    world.notes.ages = Some([begin, end]);
}

#[then("open 1-minute candles were published that were more than 250 ms old, and none that was less")]
async fn were_old(world: &mut World) {
    let [(fresh_before, before), (fresh_after, after)] = world.notes.ages.expect("ages before and after");
    assert!(after > before, "no candle was published");
    assert_eq!(
        fresh_after, fresh_before,
        "number of candles that were at most 250 ms old"
    );
}
