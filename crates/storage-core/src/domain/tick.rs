//! [`Tick`]: a trade, and the validation of entries of a tick stream.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use compact_str::CompactString;

use super::decimal::Decimal;
use super::entry::{Entry, invalid, parsed, required, utf8};
use super::event_time::parse_ts_us;
use super::lots::{self, Lots, LotsError};
use super::prices::{Prices, check_price};
use super::rejection::Rejection;
use super::stream_id::{Revision, StreamId};
use super::symbol::Symbol;
use super::tick_event::TickEvent;
use super::trade_id;

/// Largest length of a trade ID in bytes.
pub const MAX_TRADE_ID_BYTES: usize = 128;

/// Field with the first ID of an entry that this system has added again. It marks the entry as the same trade.
pub const REQUEUED: &str = "storage_requeued";

/// Side of the taker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// The taker bought.
    Buy,
    /// The taker sold.
    Sell,
}

impl Side {
    /// Returns the side that a producer names. `None` for a word that does not name the side of the taker without
    /// doubt: `bid` may be the taker's side or the price at which the taker sold, `1` is a buy in FIX and a sell
    /// elsewhere.
    pub fn of_word(word: &[u8]) -> Option<Self> {
        let is_one_of = |words: [&str; 3]| words.iter().any(|known| word.eq_ignore_ascii_case(known.as_bytes()));
        match word {
            b"buy" => Some(Self::Buy),
            b"sell" => Some(Self::Sell),
            _ if is_one_of(["buy", "b", "buyer"]) => Some(Self::Buy),
            _ if is_one_of(["sell", "s", "seller"]) => Some(Self::Sell),
            _ => None,
        }
    }

    /// Returns `buy` or `sell`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Buy => "buy",
            Self::Sell => "sell",
        }
    }
}

/// Reads `buy` and `sell`, as the database holds them.
impl FromStr for Side {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::of_word(text.as_bytes()).ok_or("must be buy or sell")
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
    /// Price of a unit; finite. It is positive unless the symbol allows others.
    pub price: f64,
    /// Quantity in units; positive.
    pub qty: Decimal,
    /// Trade ID of the exchange in its [canonical form](trade_id::canonical). Ticks without one are all distinct.
    pub trade_id: Option<CompactString>,
    /// Side of the taker, if the producer names it without doubt.
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
    /// Validates an entry of a tick stream that is a trade.
    pub fn from_entry(entry: &Entry, max_future: Duration) -> Result<Self, Rejection> {
        match TickEvent::from_entry(entry, max_future)? {
            TickEvent::Trade(accepted) => Ok(accepted),
            TickEvent::Amendment(_) => Err(invalid("kind", "must be trade")),
        }
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
        let [symbol, ts_us, price, qty, trade_id, side] =
            entry.pick(["symbol", "ts_us", "price", "qty", "trade_id", "side"]);
        Self::parse([symbol, ts_us, price, qty, trade_id, side])
    }

    /// Validates the values of the fields symbol, `ts_us`, price, qty, `trade_id` and side.
    pub(super) fn parse([symbol, ts_us, price, qty, trade_id, side]: [Option<&[u8]>; 6]) -> Result<Self, Rejection> {
        Ok(Self {
            symbol: parsed("symbol", symbol)?,
            ts_us: parse_ts_us(ts_us)?,
            price: parse_double("price", required("price", price)?)?,
            qty: parse_qty(required("qty", qty)?)?,
            trade_id: parse_trade_id(trade_id)?,
            side: parse_side(side),
        })
    }

    /// Fails if the price is not positive, unless the symbol allows any price.
    pub fn check_price(&self, prices: Prices) -> Result<(), Rejection> {
        check_price(&self.symbol, self.price, prices)
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

/// Parses a finite double from decimal text.
pub fn parse_double(field: &'static str, bytes: &[u8]) -> Result<f64, Rejection> {
    let bytes = bytes.trim_ascii();
    let decimal = Decimal::parse(bytes).map_err(|error| invalid(field, format_args!("is {error}")))?;
    // The number is parsed from the text, not from the decimal, because the standard library rounds text of any length
    // correctly.
    let number: f64 = utf8(field, bytes)?
        .parse()
        .map_err(|_| invalid(field, "is not a number"))?;
    match number {
        // A zero has no sign here.
        _ if decimal.is_zero() => Ok(0.0),
        number if number.is_normal() => Ok(number),
        _ => Err(invalid(field, "is out of the range of a double")),
    }
}

pub(super) fn parse_qty(bytes: &[u8]) -> Result<Decimal, Rejection> {
    let qty = Decimal::parse(bytes).map_err(|error| invalid("qty", format_args!("is {error}")))?;
    if qty.is_positive() {
        Ok(qty)
    } else {
        Err(invalid("qty", "must be positive"))
    }
}

pub(super) fn parse_trade_id(bytes: Option<&[u8]>) -> Result<Option<CompactString>, Rejection> {
    match bytes {
        None | Some([]) => Ok(None),
        Some(bytes) if bytes.len() > MAX_TRADE_ID_BYTES => Err(invalid(
            "trade_id",
            format_args!("is longer than {MAX_TRADE_ID_BYTES} bytes"),
        )),
        Some([b'@', ..]) => Err(invalid("trade_id", "must not begin with @")),
        Some(bytes) if bytes.contains(&0) => Err(invalid("trade_id", "contains a zero byte")),
        Some(bytes) => utf8("trade_id", bytes).map(|text| Some(trade_id::canonical(text.trim()).into())),
    }
}

/// Returns the side that field `side` names without doubt.
pub(super) fn parse_side(value: Option<&[u8]>) -> Option<Side> {
    value.and_then(|word| Side::of_word(word.trim_ascii()))
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
    fn a_trade_id_from_a_data_frame_is_that_of_the_exchange() {
        assert_eq!(validate(&[("trade_id", Some("701.0"))]).unwrap().dedup_key(), "701");
    }

    #[test]
    fn a_requeued_tick_keeps_its_first_identity() {
        let requeued = validate(&[("trade_id", None), (REQUEUED, Some("1600000000000-7"))]).unwrap();
        assert_eq!(requeued.dedup_key(), "@1600000000000-7");
        for outside in ["1600000000000-7", "true", ""] {
            let tick = validate(&[("trade_id", None), ("requeued", Some(outside))]).unwrap();
            assert_eq!((tick.dedup_id(), tick.dedup_key().as_str()), (None, "@1700000000200-3"));
        }
    }

    #[test]
    fn numbers_may_be_in_scientific_notation() {
        let tick = validate(&[("price", Some("1.5E-7")), ("qty", Some("9.2E-7"))])
            .unwrap()
            .tick;
        assert_eq!((tick.price, tick.qty.to_string().as_str()), (1.5e-7, "0.00000092"));
    }

    #[test]
    fn a_side_is_read_where_it_is_unmistakable_and_the_trade_counts_anyway() {
        let side = |word| validate(&[("side", Some(word))]).unwrap().tick.side;
        for word in ["buy", "BUY", "Buy", "b", "B", " buy ", "buyer"] {
            assert_eq!(side(word), Some(Side::Buy), "{word}");
        }
        for word in ["sell", "SELL", "Sell", "s", "S", "sell\n", "Seller"] {
            assert_eq!(side(word), Some(Side::Sell), "{word}");
        }
        for word in [
            "", " ", "bid", "ask", "1", "2", "-1", "True", "false", "A", "N", "买", "\0", "buysell",
        ] {
            assert_eq!(side(word), None, "{word}");
        }
    }

    #[test]
    fn numbers_are_read_as_languages_send_them() {
        let tick = |changes: &[(&str, &str)]| {
            let changes: Vec<_> = changes.iter().map(|(name, value)| (*name, Some(*value))).collect();
            validate(&changes).unwrap().tick
        };
        for (text, price) in [
            ("1e-05", 1e-5),
            ("+1", 1.0),
            (".5", 0.5),
            ("5.", 5.0),
            (" 7 ", 7.0),
            ("1.0E-5", 1e-5),
        ] {
            let tick = tick(&[("price", text), ("qty", text)]);
            assert_eq!((tick.price, tick.qty.to_f64()), (price, price), "{text}");
        }
        for (text, price) in [("-37.63", -37.63), ("0", 0.0), ("-0.0", 0.0)] {
            let tick = tick(&[("price", text)]);
            assert_eq!(tick.price.to_bits(), f64::to_bits(price), "{text}");
        }
        for text in [
            " 1700000000123456",
            "+1700000000123456",
            "1700000000123456.0",
            "1.700000000123456e15",
            "1.700000000123456E+15",
        ] {
            assert_eq!(tick(&[("ts_us", text)]).ts_us, 1_700_000_000_123_456, "{text}");
        }
    }

    #[test]
    fn an_invalid_field_is_named() {
        assert_eq!(reason(&[("qty", None)]), "field `qty` is missing");
        assert_eq!(
            reason(&[("price", Some("1e-310"))]),
            "field `price` is a number with too many digits or too large an exponent"
        );
        assert_eq!(
            reason(&[("price", Some(&format!("{}e300", "9".repeat(30))))]),
            "field `price` is out of the range of a double"
        );
        assert_eq!(
            reason(&[("price", Some("NaN"))]),
            "field `price` is not a decimal number"
        );
        assert_eq!(reason(&[("qty", Some("0"))]), "field `qty` must be positive");
        assert!(reason(&[("symbol", Some(""))]).starts_with("field `symbol` must be 1 to 64"));
        assert!(reason(&[("symbol", Some("A "))]).starts_with("field `symbol` must be 1 to 64"));
        assert!(reason(&[("symbol", Some("A:B"))]).starts_with("field `symbol`"));
        assert!(reason(&[("ts_us", Some("soon"))]).starts_with("field `ts_us`"));
        assert!(reason(&[("ts_us", Some("1731536000000000"))]).contains("ahead"));
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
