//! Entries that can't be used, or hardly.

use acceptance::oracle::Trade;
use acceptance::pipeline::Pipeline;
use acceptance::producer;
use cucumber::gherkin::Step;
use cucumber::{then, when};
use storage_core::testing::polling::until;

use super::hot::rows;

const TIME_US: i64 = 1_709_294_400_000_000; // 2024-03-01T12:00:00Z

fn sound(symbol: &str) -> Trade {
    Trade {
        symbol: symbol.to_owned(),
        ts_us: TIME_US,
        price: "1.5".to_owned(),
        qty: "2".to_owned(),
        id: None,
    }
}

#[when(expr = "a trade of {word} arrives with {word} {string}")]
async fn with_field(world: &mut Pipeline, symbol: String, field: String, value: String) {
    let value = match value.as_str() {
        "1 MB of garbage" => "\u{1}garbage".repeat(131_072),
        "next year" => (chrono::Utc::now().timestamp_micros() + 365 * 86_400_000_000).to_string(),
        _ => value,
    };
    let mut fields = producer::fields(&sound(&symbol));
    fields.retain(|(name, _)| *name != field);
    fields.push((field, value));
    let (stream, id) = world.send_fields(&symbol, &fields).await;
    world.notes.insert("stream".to_owned(), stream);
    world.notes.insert("id".to_owned(), id);
}

#[when("trades arrive with these fields:")]
async fn with_fields(world: &mut Pipeline, step: &Step) {
    for row in rows(step) {
        with_field(world, row["symbol"].clone(), row["field"].clone(), row["value"].clone()).await;
    }
}

#[then("the volume in candles_1m is:")]
async fn volumes(world: &mut Pipeline, step: &Step) {
    for row in rows(step) {
        volume(
            world,
            row["symbol"].clone(),
            row["units"].clone(),
            row["trades"].parse().unwrap(),
        )
        .await;
    }
}

#[when(expr = "a trade of {word} arrives without {word}")]
async fn without_field(world: &mut Pipeline, symbol: String, field: String) {
    let mut fields = producer::fields(&sound(&symbol));
    fields.retain(|(name, _)| *name != field);
    let (stream, id) = world.send_fields(&symbol, &fields).await;
    world.notes.insert("stream".to_owned(), stream);
    world.notes.insert("id".to_owned(), id);
}

#[when(expr = "{int} trades of {word} arrive with {word} {string}")]
async fn several_with_field(world: &mut Pipeline, count: usize, symbol: String, field: String, value: String) {
    for _ in 0..count {
        with_field(world, symbol.clone(), field.clone(), value.clone()).await;
    }
}

#[when(expr = "a valid trade of {word} arrives")]
async fn sound_trade(world: &mut Pipeline, symbol: String) {
    world.send(sound(&symbol)).await;
}

#[then(expr = "a dead letter reports {string}")]
async fn dead_letter(world: &mut Pipeline, text: String) {
    let (stream, id) = (&world.notes["stream"], &world.notes["id"]);
    let sql = format!("SELECT reason FROM dead_letters WHERE stream = '{stream}' AND entry_id = '{id}'");
    until("the dead letter", async || {
        let reasons = world.rows(&sql).await?;
        if reasons.len() == 1 && reasons[0][0].contains(&text) {
            Ok(())
        } else {
            Err(format!("{reasons:?}"))
        }
    })
    .await;
}

#[then(expr = "the volume of {word} in candles_1m is {string} units in {int} trade(s)")]
async fn volume(world: &mut Pipeline, symbol: String, units: String, trades: i64) {
    let sql = format!(
        "SELECT trim_scale(sum(volume))::text, sum(trades) FROM candles_in_units WHERE timeframe = '1m' AND symbol = '{symbol}'"
    );
    until("the volume", async || {
        let found = world.rows(&sql).await?;
        if found == [[units.clone(), trades.to_string()]] {
            Ok(())
        } else {
            Err(format!("{found:?}"))
        }
    })
    .await;
}

#[when(expr = "I follow the advice of the dead letters of {word}")]
async fn obey(world: &mut Pipeline, symbol: String) {
    let sql = format!(
        "SELECT reason, stream || '/' || entry_id FROM dead_letters
         WHERE fields->>'symbol' = '{symbol}' AND requeued_at IS NULL ORDER BY first_seen, entry_id"
    );
    let mut letters = Vec::new();
    until("dead letters", async || {
        letters = world.rows(&sql).await?;
        if letters.is_empty() {
            Err("none".to_owned())
        } else {
            Ok(())
        }
    })
    .await;
    for letter in letters {
        let (_, advice) = letter[0].split_once("run `").expect("advice");
        let (command, then) = advice.split_once('`').expect("a command");
        assert_eq!(then, ", then requeue this dead letter");
        let words: Vec<&str> = command.split(' ').collect();
        world.command(words[0], &words[1..]).await;
        world.succeeded();
        world
            .command("aggregator-admin", &["dead-letters", "requeue", &letter[1]])
            .await;
        world.succeeded();
    }
}
