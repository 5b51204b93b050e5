//! [`TickEvent`]: a valid entry of a tick stream.

use std::time::Duration;

use super::amendment::{Amendment, Change};
use super::entry::{Entry, invalid, parsed, required};
use super::event_time::parse_ts_us;
use super::prices::{Prices, check_price};
use super::rejection::Rejection;
use super::stream_id::Revision;
use super::symbol::Symbol;
use super::tick::{self, AcceptedTick, REQUEUED, Tick};
use super::time::duration_us;

/// A valid entry of a tick stream: a trade, or a change of an earlier one.
#[derive(Clone, Debug, PartialEq)]
pub enum TickEvent {
    /// A trade; field `kind` is `trade` or missing.
    Trade(AcceptedTick),
    /// A `correction` or a `bust`.
    Amendment(Amendment),
}

impl TickEvent {
    /// Validates an entry of a tick stream. The result depends only on the entry, so that every reader of the stream
    /// gets the same one, however often it reads the entry.
    pub fn from_entry(entry: &Entry, max_future: Duration) -> Result<Self, Rejection> {
        let [symbol, ts_us, price, qty, trade_id, side, requeued, kind, replaces] = entry.pick([
            "symbol", "ts_us", "price", "qty", "trade_id", "side", REQUEUED, "kind", "replaces",
        ]);
        let event = match kind {
            None | Some(b"" | b"trade") => Self::Trade(AcceptedTick {
                tick: Tick::parse([symbol, ts_us, price, qty, trade_id, side])?,
                origin: match requeued {
                    Some(_) => parsed(REQUEUED, requeued)?,
                    None => entry.id,
                },
                revision: entry.id.try_into()?,
            }),
            Some(kind @ (b"correction" | b"bust")) => Self::Amendment(Amendment {
                symbol: parsed("symbol", symbol)?,
                ts_us: parse_ts_us(ts_us)?,
                trade_id: tick::parse_trade_id(trade_id)?.ok_or(Rejection::MissingField("trade_id"))?,
                change: match kind {
                    b"bust" => Change::Bust,
                    _ => Change::Correction {
                        price: tick::parse_double("price", required("price", price)?)?,
                        qty: tick::parse_qty(required("qty", qty)?)?,
                        side: tick::parse_side(side),
                    },
                },
                replaces: match replaces {
                    None | Some(b"") => None,
                    Some(_) => Some(parsed("replaces", replaces)?),
                },
                revision: entry.id.try_into()?,
            }),
            Some(_) => return Err(invalid("kind", "must be trade, correction or bust")),
        };
        let ahead_us = event.ts_us().saturating_sub(entry.id.accepted_us());
        if ahead_us > duration_us(max_future) {
            return Err(Rejection::Future { ahead_us });
        }
        Ok(event)
    }

    /// Returns the symbol.
    pub fn symbol(&self) -> &Symbol {
        match self {
            Self::Trade(accepted) => &accepted.tick.symbol,
            Self::Amendment(amendment) => &amendment.symbol,
        }
    }

    /// Returns the price; `None` for a bust.
    pub fn price(&self) -> Option<f64> {
        match self {
            Self::Trade(accepted) => Some(accepted.tick.price),
            Self::Amendment(amendment) => match amendment.change {
                Change::Correction { price, .. } => Some(price),
                Change::Bust => None,
            },
        }
    }

    /// Fails if the price is not positive, unless the symbol allows any price.
    pub fn check_price(&self, prices: Prices) -> Result<(), Rejection> {
        self.price()
            .map_or(Ok(()), |price| check_price(self.symbol(), price, prices))
    }

    /// Returns the revision of the entry.
    pub fn revision(&self) -> Revision {
        match self {
            Self::Trade(accepted) => accepted.revision,
            Self::Amendment(amendment) => amendment.revision,
        }
    }

    /// Returns the event time in µs since 1970: of an amendment that of its trade.
    pub fn ts_us(&self) -> i64 {
        match self {
            Self::Trade(accepted) => accepted.tick.ts_us,
            Self::Amendment(amendment) => amendment.ts_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::stream_id::StreamId;
    use crate::domain::tick::Side;

    fn validate(changes: &[(&str, &str)]) -> Result<TickEvent, Rejection> {
        let mut fields = vec![("symbol", "A"), ("ts_us", "1000000"), ("trade_id", "7.0")];
        fields.extend(changes);
        TickEvent::from_entry(&Entry::new(StreamId::at_ms(1), fields), Duration::from_secs(5))
    }

    fn amendment(change: Change) -> Result<TickEvent, Rejection> {
        Ok(TickEvent::Amendment(Amendment {
            symbol: "A".parse().unwrap(),
            ts_us: 1_000_000,
            trade_id: "7".into(),
            change,
            replaces: None,
            revision: StreamId::at_ms(1).try_into().unwrap(),
        }))
    }

    #[test]
    fn a_bust_needs_no_price_and_a_correction_does() {
        assert_eq!(validate(&[("kind", "bust")]), amendment(Change::Bust));
        let correction = [("kind", "correction"), ("price", "2.5"), ("qty", "3"), ("side", "buy")];
        let change = Change::Correction {
            price: 2.5,
            qty: "3".parse().unwrap(),
            side: Some(Side::Buy),
        };
        assert_eq!(validate(&correction), amendment(change));
        assert_eq!(validate(&correction[..2]), Err(Rejection::MissingField("qty")));
    }

    #[test]
    fn a_trade_is_the_default_and_other_kinds_are_rejected() {
        for kind in ["", "trade"] {
            let event = validate(&[("kind", kind), ("price", "1"), ("qty", "1")]);
            assert!(matches!(event, Ok(TickEvent::Trade(_))), "{event:?}");
        }
        let reason = validate(&[("kind", "cancel")]).unwrap_err().to_string();
        assert_eq!(reason, "field `kind` must be trade, correction or bust");
    }

    #[test]
    fn an_amendment_names_its_trade() {
        let entry = Entry::new(StreamId::at_ms(1), [("symbol", "A"), ("ts_us", "1"), ("kind", "bust")]);
        let event = TickEvent::from_entry(&entry, Duration::from_secs(5));
        assert_eq!(event, Err(Rejection::MissingField("trade_id")));
        let reason = validate(&[("kind", "bust"), ("replaces", "x")])
            .unwrap_err()
            .to_string();
        assert!(reason.starts_with("field `replaces`"), "{reason}");
    }
}
