//! Messages on channels.

use acceptance::oracle::{self, lots, micros};
use cucumber::gherkin::Step;
use cucumber::{given, then};
use futures::StreamExt;
use storage_core::testing::polling::until;

use super::check::{check, same};
use super::table::rows;
use super::world::World;

#[given("a subscriber to every channel")]
async fn subscriber(world: &mut World) {
    let client = storage_core::redis::connection::client(&world.pipeline.redis().config)
        .await
        .unwrap();
    let mut subscription = client.get_async_pubsub().await.unwrap();
    subscription.psubscribe("*").await.unwrap();
    let messages = world.notes.messages.clone();
    tokio::spawn(async move {
        let mut stream = subscription.on_message();
        while let Some(message) = stream.next().await {
            let payload: String = message.get_payload().unwrap();
            let value = serde_json::from_str(&payload).unwrap_or(serde_json::Value::String(payload));
            messages
                .lock()
                .unwrap()
                .push((message.get_channel_name().to_owned(), value));
        }
    });
}

#[then(expr = "the channel {word} publishes a message with:")]
async fn message(world: &mut World, channel: String, step: &Step) {
    let expected = rows(step).remove(0);
    until(&channel, async || {
        let messages = world.notes.messages.lock().unwrap();
        let on_channel = messages
            .iter()
            .filter(|(name, _)| *name == channel)
            .map(|(_, message)| message);
        let text = |value: &serde_json::Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let fits = |message: &&serde_json::Value| {
            expected
                .iter()
                .all(|(name, value)| message.get(name).is_some_and(|found| same(&text(found), value)))
        };
        let found: Vec<_> = on_channel.collect();
        check(found.iter().any(fits), &expected, &found)
    })
    .await;
}

/// The last message of the minute counts all its trades, is final, and has a higher revision than those before.
#[then(expr = "the channel {word} publishes the correction of the late trade's minute")]
async fn corrected_minute(world: &mut World, channel: String) {
    let late = world.trades.last().expect("a trade");
    let bars = oracle::group(&world.trades, oracle::width_us("1m"));
    let start_us = late.ts_us - late.ts_us.rem_euclid(oracle::width_us("1m"));
    let expected = &bars[&(late.symbol.clone(), start_us)];
    until(&channel, async || {
        let messages = world.notes.messages.lock().unwrap();
        let of_minute: Vec<&serde_json::Value> = messages
            .iter()
            .filter(|(name, message)| *name == channel && micros(message["time"].as_str().unwrap()) == start_us)
            .map(|(_, message)| message)
            .collect();
        let revision = |message: &serde_json::Value| message["revision"].as_str().unwrap().parse::<i64>().unwrap();
        let found = of_minute.last().is_some_and(|last| {
            let bar = oracle::Bar {
                open: last["open"].as_f64().unwrap(),
                high: last["high"].as_f64().unwrap(),
                low: last["low"].as_f64().unwrap(),
                close: last["close"].as_f64().unwrap(),
                lots: lots(last["volume"].as_str().unwrap()),
                trades: last["trades"].as_i64().unwrap(),
            };
            let before = &of_minute[..of_minute.len() - 1];
            bar == *expected && last["final"] == true && before.iter().all(|message| revision(message) < revision(last))
        });
        check(found, expected, &of_minute)
    })
    .await;
}

#[then(expr = "the correction on {word} has a higher revision than the final candle before it")]
async fn correction(world: &mut World, channel: String) {
    let messages = world.notes.messages.lock().unwrap();
    let revisions: Vec<i64> = messages
        .iter()
        .filter(|(name, message)| *name == channel && message["final"] == true)
        .map(|(_, message)| message["revision"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(
        revisions.len() >= 2 && revisions.is_sorted_by(|a, b| a < b),
        "expected two or more ascending revisions, found {revisions:?}"
    );
}
