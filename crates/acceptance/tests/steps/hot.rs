//! The hot view: hashes, TTLs, messages, closed candles.

use std::collections::{BTreeMap, BTreeSet};

use acceptance::oracle::{self, Trade, lots, micros};
use acceptance::pipeline::Pipeline;
use acceptance::producer;
use cucumber::gherkin::Step;
use cucumber::{given, then, when};
use futures::StreamExt;
use storage_core::testing::polling::until;

/// The rows of a step's table, by the names in its first row.
pub(crate) fn rows(step: &Step) -> Vec<BTreeMap<String, String>> {
    let table = step.table.as_ref().expect("a table");
    let names = &table.rows[0];
    let row = |row: &Vec<String>| names.iter().cloned().zip(row.iter().cloned()).collect();
    table.rows[1..].iter().map(row).collect()
}

#[when("these trades arrive:")]
async fn trades_arrive(world: &mut Pipeline, step: &Step) {
    for row in rows(step) {
        let optional = |name: &str| row.get(name).filter(|value| !value.is_empty()).cloned();
        let trade = Trade {
            symbol: optional("symbol").unwrap_or_else(|| "BTCUSDT".to_owned()),
            ts_us: micros(&row["time"]),
            price: row["price"].clone(),
            qty: row["qty"].clone(),
            id: optional("id"),
        };
        world.send(trade).await;
    }
}

#[when(expr = "a trade of {word} arrives with the current time")]
async fn trade_now(world: &mut Pipeline, symbol: String) {
    let ts_us = chrono::Utc::now().timestamp_micros();
    world
        .send(Trade {
            symbol,
            ts_us,
            price: "42000.1".to_owned(),
            qty: "0.005".to_owned(),
            id: None,
        })
        .await;
}

#[when(expr = "a signal of the strategy {word} for {word} arrives with a TTL of {int} ms")]
async fn signal(world: &mut Pipeline, strategy: String, symbol: String, ttl_ms: i64) {
    let ts_us = chrono::Utc::now().timestamp_micros().to_string();
    let ttl_ms = ttl_ms.to_string();
    let fields = [
        ("signal_id", "s-1"),
        ("symbol", &symbol),
        ("strategy", &strategy),
        ("side", "buy"),
        ("strength", "0.8"),
        ("price", "42000.1"),
        ("ts_us", &ts_us),
        ("ttl_ms", &ttl_ms),
    ];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    producer::add(&world.redis, "stream:signals", &fields).await.unwrap();
}

#[then(expr = "the hash {word} contains:")]
async fn hash_shows(world: &mut Pipeline, key: String, step: &Step) {
    let expected = rows(step).remove(0);
    until(&key, async || {
        let hash = world.hash(&key).await?;
        let equal = expected
            .iter()
            .all(|(name, value)| hash.get(name).is_some_and(|found| same(found, value)));
        if equal { Ok(()) } else { Err(format!("{hash:?}")) }
    })
    .await;
}

/// Numbers are compared as numbers.
fn same(found: &str, expected: &str) -> bool {
    found == expected || matches!((found.parse::<f64>(), expected.parse::<f64>()), (Ok(a), Ok(b)) if a == b)
}

#[then("the open candle of every symbol in every timeframe is the aggregate of its trades")]
async fn all_open_candles(world: &mut Pipeline) {
    let symbols: BTreeSet<String> = world.trades.iter().map(|trade| trade.symbol.clone()).collect();
    for symbol in symbols {
        open_candles(world, symbol).await;
    }
}

#[then(expr = "the open candle of {word} in every timeframe is the aggregate of its trades")]
async fn open_candles(world: &mut Pipeline, symbol: String) {
    for timeframe in ["1m", "5m", "15m", "1h", "4h", "1d"] {
        let bars = oracle::group(&world.trades, oracle::width_us(timeframe));
        let ((_, start_us), expected) = bars.iter().rfind(|((of, _), _)| *of == symbol).expect("a candle");
        let key = format!("candle:current:{timeframe}:{symbol}");
        until(&key, async || {
            let hash = world.hash(&key).await?;
            let number = |name: &str| hash.get(name).and_then(|text| text.parse::<f64>().ok());
            let equal = hash.get("time").is_some_and(|time| micros(time) == *start_us)
                && number("open") == Some(expected.open)
                && number("high") == Some(expected.high)
                && number("low") == Some(expected.low)
                && number("close") == Some(expected.close)
                && hash.get("volume").is_some_and(|volume| lots(volume) == expected.lots)
                && hash
                    .get("trades")
                    .is_some_and(|trades| *trades == expected.trades.to_string());
            if equal {
                Ok(())
            } else {
                Err(format!("expected {expected:?}, found {hash:?}"))
            }
        })
        .await;
    }
}

#[then(expr = "the key {word} expires in {int} to {int} seconds")]
async fn expires(world: &mut Pipeline, key: String, least: i64, most: i64) {
    until(&key, async || {
        let ttl: i64 = world
            .redis
            .ask(&["TTL", &key])
            .await
            .map_err(|error| error.to_string())?;
        if (least..=most).contains(&ttl) {
            Ok(())
        } else {
            Err(format!("TTL {ttl}"))
        }
    })
    .await;
}

#[then(expr = "the key {word} expires")]
async fn is_gone(world: &mut Pipeline, key: String) {
    until(&key, async || {
        let exists: bool = world
            .redis
            .ask(&["EXISTS", &key])
            .await
            .map_err(|error| error.to_string())?;
        if exists { Err("still there".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[then(expr = "the key {word} exists")]
async fn is_there(world: &mut Pipeline, key: String) {
    until(&key, async || {
        let exists: bool = world
            .redis
            .ask(&["EXISTS", &key])
            .await
            .map_err(|error| error.to_string())?;
        if exists { Ok(()) } else { Err("not there".to_owned()) }
    })
    .await;
}

async fn keys(world: &Pipeline) -> Vec<String> {
    let mut keys: Vec<String> = world.redis.ask(&["KEYS", "*"]).await.unwrap();
    keys.sort();
    keys
}

#[then("every key is documented")]
async fn documented_keys(world: &mut Pipeline) {
    let documented = |key: &str| {
        let parts: Vec<&str> = key.split(':').collect();
        match parts[..] {
            ["tick", "latest", _] | ["signal", "active", _] => true,
            ["candle", "current", timeframe, _] => ["1m", "5m", "15m", "1h", "4h", "1d"].contains(&timeframe),
            ["candle", "recent" | "restored", _, _, start] => start.parse::<i64>().is_ok(),
            ["stream", "ticks" | "candles" | "open" | "since", partition] => partition.parse::<u16>().is_ok(),
            [
                "stream",
                "signals" | "repairs" | "rollups" | "backups" | "dead" | "partitions" | "symbols",
            ] => true,
            ["stream", "backups", "last"] => true,
            ["lease", "hot-writer" | "aggregator-admin", owner] => owner == "members" || owner.parse::<u16>().is_ok(),
            _ => false,
        }
    };
    let undocumented: Vec<String> = keys(world).await.into_iter().filter(|key| !documented(key)).collect();
    assert_eq!(undocumented, Vec::<String>::new());
}

#[then("every key has a TTL, except the streams and their bookkeeping")]
async fn keys_have_ttl(world: &mut Pipeline) {
    for key in keys(world).await {
        let ttl: i64 = world.redis.ask(&["PTTL", &key]).await.unwrap();
        assert_eq!(ttl == -1, key.starts_with("stream:"), "{key} has TTL {ttl} ms");
    }
}

#[given("a subscriber to every channel")]
async fn subscriber(world: &mut Pipeline) {
    let client = storage_core::redis::connection::client(&world.redis.config)
        .await
        .unwrap();
    let mut subscription = client.get_async_pubsub().await.unwrap();
    subscription.psubscribe("*").await.unwrap();
    let messages = world.messages.clone();
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
async fn message(world: &mut Pipeline, channel: String, step: &Step) {
    let expected = rows(step).remove(0);
    until(&channel, async || {
        let messages = world.messages.lock().unwrap();
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
        let seen: Vec<_> = on_channel.collect();
        if seen.iter().any(fits) {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })
    .await;
}

/// The minute with all its trades, final, under a higher revision than any message about it before.
#[then(expr = "the channel {word} publishes the correction of the late trade's minute")]
async fn corrected_minute(world: &mut Pipeline, channel: String) {
    let late = world.trades.last().expect("a trade");
    let bars = oracle::group(&world.trades, oracle::width_us("1m"));
    let start_us = late.ts_us - late.ts_us.rem_euclid(oracle::width_us("1m"));
    let expected = &bars[&(late.symbol.clone(), start_us)];
    until(&channel, async || {
        let messages = world.messages.lock().unwrap();
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
        if found {
            Ok(())
        } else {
            Err(format!("expected {expected:?}, found {of_minute:?}"))
        }
    })
    .await;
}

#[then(expr = "the correction on {word} has a higher revision than the final candle before it")]
async fn correction(world: &mut Pipeline, channel: String) {
    let messages = world.messages.lock().unwrap();
    let revisions: Vec<i64> = messages
        .iter()
        .filter(|(name, message)| *name == channel && message["final"] == true)
        .map(|(_, message)| message["revision"].as_str().unwrap().parse().unwrap())
        .collect();
    assert!(
        revisions.len() >= 2 && revisions.is_sorted_by(|a, b| a < b),
        "{revisions:?}"
    );
}

#[then(expr = "the stream of closed candles of {word} contains {int} entry/entries")]
async fn closed(world: &mut Pipeline, symbol: String, count: usize) {
    let stream = format!(
        "stream:candles:{}",
        producer::partition(&symbol, acceptance::pipeline::PARTITIONS)
    );
    until(&stream, async || {
        let length = length(world, &stream).await?;
        if length == count {
            Ok(())
        } else {
            Err(format!("{length} entries"))
        }
    })
    .await;
}

/// How many entries a stream holds.
pub(crate) async fn length(world: &Pipeline, stream: &str) -> Result<usize, String> {
    world
        .redis
        .ask(&["XLEN", stream])
        .await
        .map_err(|error| error.to_string())
}
