//! Ticks: entries of `stream:ticks:<P>`, hash `tick:latest:<SYMBOL>`, and messages on `tick:<SYMBOL>`.
//! [`AcceptedTick::from_entry`] decodes entries.

use serde::Serialize;

use super::{as_text, json};
use crate::domain::decimal::Decimal;
use crate::domain::entry::Fields;
use crate::domain::stream_id::Revision;
use crate::domain::tick::{AcceptedTick, Side, Tick};

/// Encodes an entry as a producer sends it.
pub fn entry_fields(tick: &Tick) -> Fields {
    let mut fields = vec![
        ("symbol", tick.symbol.to_string()),
        ("ts_us", tick.ts_us.to_string()),
        ("price", tick.price.to_string()),
        ("qty", tick.qty.to_string()),
    ];
    fields.extend(tick.trade_id.iter().map(|id| ("trade_id", id.to_string())));
    fields.extend(tick.side.map(|side| ("side", side.to_string())));
    fields
}

/// Encodes a hash. A field that the producer did not send is empty, so that it replaces that of the previous tick.
pub fn hash_fields(accepted: &AcceptedTick) -> Fields {
    let tick = &accepted.tick;
    vec![
        ("price", tick.price.to_string()),
        ("qty", tick.qty.to_string()),
        ("ts_us", tick.ts_us.to_string()),
        ("trade_id", tick.trade_id.as_deref().unwrap_or_default().to_owned()),
        ("side", tick.side.map(Side::as_str).unwrap_or_default().to_owned()),
        ("revision", accepted.revision.to_string()),
    ]
}

#[derive(Serialize)]
struct Message<'a> {
    symbol: &'a str,
    price: f64,
    #[serde(serialize_with = "as_text")]
    qty: Decimal,
    ts_us: i64,
    trade_id: Option<&'a str>,
    side: Option<&'static str>,
    #[serde(serialize_with = "as_text")]
    revision: Revision,
}

/// Encodes a message.
pub fn message(accepted: &AcceptedTick) -> String {
    let tick = &accepted.tick;
    json(&Message {
        symbol: tick.symbol.as_str(),
        price: tick.price,
        qty: tick.qty,
        ts_us: tick.ts_us,
        trade_id: tick.trade_id.as_deref(),
        side: tick.side.map(Side::as_str),
        revision: accepted.revision,
    })
}
