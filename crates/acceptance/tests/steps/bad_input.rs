//! Invalid and unusual entries, and their dead letters.

use acceptance::producer::{self, Fields};
use cucumber::gherkin::Step;
use cucumber::{then, when};
use storage_core::testing::polling::until;

use super::check::{check, equal};
use super::table::rows;
use super::trades::valid;
use super::world::World;

/// Sends an entry, and stores its stream and ID for later steps.
async fn send(world: &mut World, symbol: &str, fields: &Fields) {
    world.notes.entry = world.pipeline.send(symbol, fields).await;
}

/// Returns the fields of a valid trade without `field`.
fn fields_without(symbol: &str, field: &str) -> Fields {
    let mut fields = producer::fields(&valid(symbol));
    fields.retain(|(name, _)| name != field);
    fields
}

#[when(expr = "a trade of {word} arrives with {word} {string}")]
async fn with_field(world: &mut World, symbol: String, field: String, value: String) {
    let value = match value.as_str() {
        "1 MB of garbage" => "\u{1}garbage".repeat(131_072),
        "next year" => (chrono::Utc::now().timestamp_micros() + 365 * 86_400_000_000).to_string(),
        _ => value,
    };
    let mut fields = fields_without(&symbol, &field);
    fields.push((field, value));
    send(world, &symbol, &fields).await;
}

#[when("trades arrive with these fields:")]
async fn with_fields(world: &mut World, step: &Step) {
    for row in rows(step) {
        with_field(world, row["symbol"].clone(), row["field"].clone(), row["value"].clone()).await;
    }
}

#[then("the volume in candles_1m is:")]
async fn volumes(world: &mut World, step: &Step) {
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
async fn without_field(world: &mut World, symbol: String, field: String) {
    send(world, &symbol, &fields_without(&symbol, &field)).await;
}

#[when(expr = "{int} trades of {word} arrive with {word} {string}")]
async fn several_with_field(world: &mut World, count: usize, symbol: String, field: String, value: String) {
    for _ in 0..count {
        with_field(world, symbol.clone(), field.clone(), value.clone()).await;
    }
}

#[then(expr = "a dead letter reports {string}")]
async fn dead_letter(world: &mut World, text: String) {
    let (stream, id) = &world.notes.entry;
    let sql = format!("SELECT reason FROM dead_letters WHERE stream = '{stream}' AND entry_id = '{id}'");
    until("the dead letter", async || {
        let reasons = world.pipeline.rows(&sql).await?;
        check(reasons.len() == 1 && reasons[0][0].contains(&text), &text, &reasons)
    })
    .await;
}

#[then(expr = "the volume of {word} in candles_1m is {string} units in {int} trade(s)")]
async fn volume(world: &mut World, symbol: String, units: String, trades: i64) {
    let sql = format!(
        "SELECT trim_scale(sum(volume))::text, sum(trades) FROM candles_in_units
         WHERE timeframe = '1m' AND symbol = '{symbol}'"
    );
    until("the volume", async || {
        let found = world.pipeline.rows(&sql).await?;
        equal(&found, &[[units.clone(), trades.to_string()]])
    })
    .await;
}
