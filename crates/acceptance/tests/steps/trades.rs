//! Trades and signals that arrive.

use acceptance::oracle::{Kind, Trade, micros};
use acceptance::producer;
use cucumber::gherkin::Step;
use cucumber::{given, when};

use super::table::rows;
use super::world::World;

const SECOND_US: i64 = 1_000_000;
const MINUTE_US: i64 = 60 * SECOND_US;
const HOUR_US: i64 = 60 * MINUTE_US;
const DAY_US: i64 = 24 * HOUR_US;
const NOON_US: i64 = 12 * HOUR_US;

/// Event time of a valid trade: 2024-03-01T12:00:00Z.
const VALID_US: i64 = 1_709_294_400_000_000;

pub(crate) fn trade(symbol: &str, ts_us: i64, price: &str, qty: &str, id: Option<String>) -> Trade {
    Trade {
        kind: Kind::Trade,
        symbol: symbol.to_owned(),
        ts_us,
        price: price.to_owned(),
        qty: qty.to_owned(),
        id,
    }
}

fn now_us() -> i64 {
    chrono::Utc::now().timestamp_micros()
}

/// Returns a trade whose fields are all valid.
pub(crate) fn valid(symbol: &str) -> Trade {
    trade(symbol, VALID_US, "1.5", "2", None)
}

#[when(expr = "a valid trade of {word} arrives")]
async fn valid_trade(world: &mut World, symbol: String) {
    world.send(valid(&symbol)).await;
}

#[when("these trades arrive:")]
async fn these_trades(world: &mut World, step: &Step) {
    for row in rows(step) {
        let optional = |name: &str| row.get(name).filter(|value| !value.is_empty()).cloned();
        let symbol = optional("symbol").unwrap_or_else(|| "BTCUSDT".to_owned());
        let ts_us = micros(&row["time"]);
        let value = |name: &str| optional(name).unwrap_or_default();
        let entry = trade(&symbol, ts_us, &value("price"), &value("qty"), optional("id"));
        let kind = kind(&value("kind"));
        world.notes.entry = world.send(Trade { kind, ..entry }).await;
    }
}

fn kind(name: &str) -> Kind {
    match name {
        "" | "trade" => Kind::Trade,
        "correction" => Kind::Correction,
        "bust" => Kind::Bust,
        other => panic!("{other} is not a kind of entry"),
    }
}

/// Sends an amendment of the trade number `number` of `world`.
#[when(regex = r"^(?:the )?trade number (\d+) is (?:corrected to price (\S+)|busted)$")]
async fn amended(world: &mut World, number: usize, price: String) {
    let trade = world.trades[number - 1].clone();
    let kind = if price.is_empty() { Kind::Bust } else { Kind::Correction };
    world.notes.entry = world.send(Trade { kind, price, ..trade }).await;
}

#[when(expr = "a trade of {word} arrives with the current time")]
async fn trade_now(world: &mut World, symbol: String) {
    world.send(trade(&symbol, now_us(), "42000.1", "0.005", None)).await;
}

#[when(expr = "a trade of {word} arrives {int} {word} late")]
async fn late_trade(world: &mut World, symbol: String, number: i64, unit: String) {
    let unit_us = match unit.as_str() {
        "hour" | "hours" => HOUR_US,
        "day" | "days" => DAY_US,
        other => panic!("{other} is not a unit of time; use hours or days"),
    };
    let late_us = now_us() - number * unit_us;
    world
        .send(trade(&symbol, late_us, "1.25", "3", Some("late".to_owned())))
        .await;
}

#[when(expr = "a trade of {word} arrives with the event time {word}")]
async fn trade_at(world: &mut World, symbol: String, time: String) {
    trades_per_second(world, 1, symbol, time).await;
}

#[when(expr = "{int} trades of {word} arrive, one per second from {word}")]
async fn trades_per_second(world: &mut World, count: i64, symbol: String, from: String) {
    for at in 0..count {
        let (ts_us, id) = (micros(&from) + at * SECOND_US, world.trades.len().to_string());
        let price = format!("{}.5", 100 + (at * 37) % 11);
        world
            .send(trade(&symbol, ts_us, &price, &format!("0.{}", at + 1), Some(id)))
            .await;
    }
}

/// The trades end with the minute before the current one.
#[given(expr = "400 trades of {word} from the last {int} days")]
async fn trades_of_days(world: &mut World, symbol: String, days: i64) {
    let end_us = now_us() / MINUTE_US * MINUTE_US;
    let begin_us = end_us - days * DAY_US;
    let step_us = (end_us - begin_us) / 400;
    for number in 0..400_i64 {
        let (ts_us, id) = (begin_us + number * step_us, number.to_string());
        let (price, qty) = (format!("{}.5", 100 + number % 17), format!("0.{}", 1 + number % 9));
        world.send(trade(&symbol, ts_us, &price, &qty, Some(id))).await;
    }
}

#[given(regex = r"^trades of (\S+) from (this minute|\d+ days ago) arrive:$")]
#[when(regex = r"^trades of (\S+) from (this minute|\d+ days ago) arrive:$")]
async fn trades_of_minute(world: &mut World, symbol: String, minute: String, step: &Step) {
    let days = minute.split(' ').next().and_then(|days| days.parse().ok());
    let start_us = minute_us(world, days.unwrap_or_default());
    for row in rows(step) {
        let ts_us = start_us + row["second"].parse::<i64>().unwrap() * SECOND_US;
        let id = Some(row["id"].clone());
        world.send(trade(&symbol, ts_us, &row["price"], &row["qty"], id)).await;
    }
}

/// Returns the start of the minute at noon `days` days ago, or of the current minute for 0 days; the same for the
/// whole scenario.
pub(crate) fn minute_us(world: &mut World, days: i64) -> i64 {
    let now_us = now_us();
    let start_us = match days {
        0 => now_us - now_us % MINUTE_US,
        _ => now_us - now_us % DAY_US - days * DAY_US + NOON_US,
    };
    *world.notes.minutes_us.entry(days).or_insert(start_us)
}

#[when(expr = "a signal of the strategy {word} for {word} arrives with a TTL of {int} ms")]
async fn signal(world: &mut World, strategy: String, symbol: String, ttl_ms: i64) {
    let ts_us = now_us().to_string();
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
    let redis = world.pipeline.redis();
    producer::add(redis, "stream:signals", &fields).await.unwrap();
}
