//! [`Tick`]: a trade, and the validation of entries of a tick stream.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use compact_str::CompactString;

use super::decimal::Decimal;
use super::entry::{Entry, integer, invalid, parsed, required, utf8};
use super::lots::{self, Lots, LotsError};
use super::rejection::Rejection;
use super::stream_id::{Revision, StreamId};
use super::symbol::Symbol;
use super::time::duration_us;

/// Largest length of a trade ID in bytes.
pub const MAX_TRADE_ID_BYTES: usize = 128;

/// Side of the taker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The taker bought.
    Buy,
    /// The taker sold.
    Sell,
}

impl Side {
    /// Returns `buy` or `sell`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Buy => "buy",
            Self::Sell => "sell",
        }
    }
}

impl FromStr for Side {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "buy" => Ok(Self::Buy),
            "sell" => Ok(Self::Sell),
            _ => Err("must be buy or sell"),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A trade as a feed handler sends it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tick {
    /// Symbol that was traded.
    pub symbol: Symbol,
    /// Event time in µs since 1970.
    pub ts_us: i64,
    /// Price of a unit; positive and finite.
    pub price: f64,
    /// Quantity in units; positive.
    pub qty: Decimal,
    /// Trade ID of the exchange. Ticks without one are all distinct.
    pub trade_id: Option<CompactString>,
    /// Side of the taker, if the producer sends it.
    pub side: Option<Side>,
}

/// A tick as Redis accepted it.
#[derive(Clone, Debug, PartialEq)]
pub struct AcceptedTick {
    /// The tick.
    pub tick: Tick,
    /// Revision of its entry.
    pub revision: Revision,
    /// First entry of the tick: that of `revision`, unless the tick is a requeued dead letter.
    pub origin: StreamId,
}

impl AcceptedTick {
    /// Validates an entry of a tick stream. The result depends only on the entry, so that every reader of the stream
    /// gets the same one, however often it reads the entry.
    pub fn from_entry(entry: &Entry, max_future: Duration) -> Result<Self, Rejection> {
        let (tick, requeued) = Tick::parse(entry)?;
        let ahead_us = tick.ts_us.saturating_sub(entry.id.accepted_us());
        if ahead_us > duration_us(max_future) {
            return Err(Rejection::Future { ahead_us });
        }
        let origin = match requeued {
            Some(_) => parsed("requeued", requeued)?,
            None => entry.id,
        };
        Ok(Self {
            tick,
            revision: entry.id.try_into()?,
            origin,
        })
    }

    /// Returns the key of this tick among its symbol's ticks of the same time: its trade ID or, without one, `@` and
    /// its first entry.
    pub fn dedup_key(&self) -> String {
        match &self.tick.trade_id {
            Some(id) => id.to_string(),
            None => format!("@{}", self.origin),
        }
    }

    /// Returns the ID by which a repetition of this tick is detected: its trade ID or, for a requeued dead letter
    /// without one, its [`dedup_key`](Self::dedup_key). `None` for other ticks without a trade ID, which are all
    /// distinct.
    pub fn dedup_id(&self) -> Option<Cow<'_, str>> {
        match &self.tick.trade_id {
            Some(id) => Some(Cow::Borrowed(id)),
            None if self.origin != self.revision.stream_id() => Some(Cow::Owned(self.dedup_key())),
            None => None,
        }
    }
}

impl Tick {
    /// Validates the fields of an entry, without its ID.
    pub fn from_entry(entry: &Entry) -> Result<Self, Rejection> {
        Self::parse(entry).map(|(tick, _)| tick)
    }

    /// Also returns the value of field `requeued`.
    fn parse(entry: &Entry) -> Result<(Self, Option<&[u8]>), Rejection> {
        let [symbol, ts_us, price, qty, trade_id, side, requeued] =
            entry.pick(["symbol", "ts_us", "price", "qty", "trade_id", "side", "requeued"]);
        let tick = Self {
            symbol: parsed("symbol", symbol)?,
            ts_us: parse_ts_us(ts_us)?,
            price: parse_price(required("price", price)?)?,
            qty: parse_qty(required("qty", qty)?)?,
            trade_id: parse_trade_id(trade_id)?,
            side: parse_side(side)?,
        };
        Ok((tick, requeued))
    }

    /// Converts the quantity into lots.
    pub fn lots(&self, decimals: u8) -> Result<Lots, Rejection> {
        Lots::of(self.qty, decimals).map_err(|error| self.lots_rejection(Decimal::ZERO, error, decimals))
    }

    /// Returns the rejection of this tick's quantity. `held` is the volume of its minute without it.
    pub fn lots_rejection(&self, held: Decimal, error: LotsError, decimals: u8) -> Rejection {
        lots::rejection(&self.symbol, self.qty, held, error, decimals)
    }
}

fn parse_ts_us(value: Option<&[u8]>) -> Result<i64, Rejection> {
    match integer("ts_us", value)? {
        ts_us @ 0.. => Ok(ts_us),
        _ => Err(invalid("ts_us", "is before 1970")),
    }
}

/// Parses a price from decimal text; it must be a positive, finite double.
pub fn parse_price(bytes: &[u8]) -> Result<f64, Rejection> {
    let decimal = Decimal::parse(bytes).map_err(|error| invalid("price", format_args!("is {error}")))?;
    // The price is parsed from the text, not from the decimal, because the standard library rounds text of any length
    // correctly.
    let price: f64 = utf8("price", bytes)?
        .parse()
        .map_err(|_| invalid("price", "is not a number"))?;
    if decimal.is_positive() && price.is_normal() {
        Ok(price)
    } else {
        Err(invalid("price", "must be positive"))
    }
}

fn parse_qty(bytes: &[u8]) -> Result<Decimal, Rejection> {
    let qty = Decimal::parse(bytes).map_err(|error| invalid("qty", format_args!("is {error}")))?;
    if qty.is_positive() {
        Ok(qty)
    } else {
        Err(invalid("qty", "must be positive"))
    }
}

fn parse_trade_id(bytes: Option<&[u8]>) -> Result<Option<CompactString>, Rejection> {
    match bytes {
        None | Some([]) => Ok(None),
        Some(bytes) if bytes.len() > MAX_TRADE_ID_BYTES => Err(invalid(
            "trade_id",
            format_args!("is longer than {MAX_TRADE_ID_BYTES} bytes"),
        )),
        Some([b'@', ..]) => Err(invalid("trade_id", "must not begin with @")),
        Some(bytes) if bytes.contains(&0) => Err(invalid("trade_id", "contains a zero byte")),
        Some(bytes) => utf8("trade_id", bytes).map(|text| Some(text.into())),
    }
}

fn parse_side(bytes: Option<&[u8]>) -> Result<Option<Side>, Rejection> {
    match bytes {
        None | Some([]) => Ok(None),
        Some(bytes) => utf8("side", bytes)?
            .parse()
            .map(Some)
            .map_err(|error| invalid("side", error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACCEPTED: StreamId = StreamId {
        ms: 1_700_000_000_200,
        seq: 3,
    };

    fn validate(changes: &[(&str, Option<&str>)]) -> Result<AcceptedTick, Rejection> {
        let mut fields = vec![
            ("symbol", "BTCUSDT"),
            ("ts_us", "1700000000123456"),
            ("price", "42000.1"),
            ("qty", "0.005"),
            ("trade_id", "123"),
            ("side", "buy"),
        ];
        for (name, value) in changes {
            fields.retain(|(field, _)| field != name);
            fields.extend(value.map(|value| (*name, value)));
        }
        AcceptedTick::from_entry(&Entry::new(ACCEPTED, fields), Duration::from_secs(5))
    }

    fn reason(changes: &[(&str, Option<&str>)]) -> String {
        validate(changes).unwrap_err().to_string()
    }

    #[test]
    fn a_complete_tick_is_accepted() {
        let accepted = validate(&[]).unwrap();
        assert_eq!(accepted.tick.symbol.as_str(), "BTCUSDT");
        assert_eq!(accepted.tick.ts_us, 1_700_000_000_123_456);
        assert_eq!(accepted.tick.price, 42000.1);
        assert_eq!(accepted.tick.qty.to_string(), "0.005");
        assert_eq!(accepted.tick.side, Some(Side::Buy));
        assert_eq!(accepted.dedup_key(), "123");
    }

    #[test]
    fn ids_and_sides_are_optional_and_ids_are_any_text() {
        let without = validate(&[("trade_id", None), ("side", None)]).unwrap();
        assert_eq!(without.dedup_key(), "@1700000000200-3");
        for id in ["2f9e7c1a-5f0e-4d58-a6a2-6a3a3c9f0f11", "18446744073709551617"] {
            assert_eq!(validate(&[("trade_id", Some(id))]).unwrap().dedup_key(), id);
        }
    }

    #[test]
    fn a_requeued_tick_keeps_its_first_identity() {
        let requeued = validate(&[("trade_id", None), ("requeued", Some("1600000000000-7"))]).unwrap();
        assert_eq!(requeued.dedup_key(), "@1600000000000-7");
    }

    #[test]
    fn numbers_may_be_in_scientific_notation() {
        let tick = validate(&[("price", Some("1.5E-7")), ("qty", Some("9.2E-7"))])
            .unwrap()
            .tick;
        assert_eq!((tick.price, tick.qty.to_string().as_str()), (1.5e-7, "0.00000092"));
    }

    #[test]
    fn an_invalid_field_is_named() {
        assert_eq!(reason(&[("qty", None)]), "field `qty` is missing");
        assert_eq!(reason(&[("price", Some("-1"))]), "field `price` must be positive");
        assert_eq!(
            reason(&[("price", Some("NaN"))]),
            "field `price` is not a decimal number"
        );
        assert_eq!(reason(&[("qty", Some("0"))]), "field `qty` must be positive");
        assert!(reason(&[("symbol", Some(""))]).starts_with("field `symbol` must be 1 to 64"));
        assert!(reason(&[("symbol", Some("A:B"))]).starts_with("field `symbol`"));
        assert!(reason(&[("ts_us", Some("soon"))]).starts_with("field `ts_us`"));
        assert!(reason(&[("ts_us", Some("1731536000000000"))]).contains("ahead"));
        assert!(reason(&[("side", Some("x"))]).contains("buy or sell"));
        assert!(reason(&[("price", Some(&"9".repeat(1_000_000)))]).len() < 200);
    }

    #[test]
    fn the_rejection_of_a_quantity_beyond_the_lots_names_the_remedy() {
        let tick = validate(&[("qty", Some("100000000000"))]).unwrap().tick;
        let reason = tick.lots(8).unwrap_err().to_string();
        assert!(
            reason.contains("`aggregator-admin symbols set BTCUSDT --volume-decimals 4 --rescale`"),
            "{reason}"
        );
    }
}
