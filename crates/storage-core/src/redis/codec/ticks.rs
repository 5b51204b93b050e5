//! Ticks: entries of `stream:ticks:<P>`, hash `tick:latest:<SYMBOL>`, and messages on `tick:<SYMBOL>`.
//! [`AcceptedTick::from_entry`] decodes entries.

use serde::Serialize;

use super::{as_text, json};
use crate::domain::amendment::{Amendment, Change};
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

/// Encodes the entry of an amendment.
pub fn amendment_fields(amendment: &Amendment) -> Fields {
    let mut fields = vec![
        ("symbol", amendment.symbol.to_string()),
        ("ts_us", amendment.ts_us.to_string()),
        ("trade_id", amendment.trade_id.to_string()),
        ("kind", amendment.kind().to_owned()),
    ];
    fields.extend(amendment.replaces.map(|revision| ("replaces", revision.to_string())));
    if let Change::Correction { price, qty, side } = &amendment.change {
        fields.push(("price", price.to_string()));
        fields.push(("qty", qty.to_string()));
        fields.extend(side.map(|side| ("side", side.to_string())));
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::entry::Entry;
    use crate::domain::stream_id::StreamId;
    use crate::domain::tick_event::TickEvent;

    #[test]
    fn the_entry_of_an_amendment_is_read_back() {
        let correction = Change::Correction {
            price: 1.5,
            qty: "2.25".parse().unwrap(),
            side: Some(Side::Sell),
        };
        for (change, replaces) in [(correction, None), (Change::Bust, Some(7.try_into().unwrap()))] {
            let amendment = Amendment {
                symbol: "A".parse().unwrap(),
                ts_us: 1_700_000_000_000_000,
                trade_id: "7".into(),
                change,
                replaces,
                revision: StreamId::at_ms(1_700_000_000_000).try_into().unwrap(),
            };
            let entry = Entry::new(amendment.revision.stream_id(), amendment_fields(&amendment));
            let event = TickEvent::from_entry(&entry, Duration::ZERO);
            assert_eq!(event, Ok(TickEvent::Amendment(amendment)));
        }
    }
}
