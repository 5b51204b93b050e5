//! [`Signal`]: a trading signal of a strategy.

use super::entry::{Entry, invalid, utf8};
use super::event_time::{check_unit, parse_ts_us};
use super::rejection::Rejection;
use super::stream_id::Revision;
use super::symbol::Symbol;
use super::tick::parse_double;

/// A signal, active until it expires or a newer signal of its symbol replaces it.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// ID that the strategy has chosen; any text up to 128 bytes.
    pub signal_id: Box<str>,
    /// Symbol of the signal.
    pub symbol: Symbol,
    /// Name of the strategy; any text up to 128 bytes.
    pub strategy: Box<str>,
    /// `buy`, `sell` or another word of the strategy; any text up to 128 bytes.
    pub side: Box<str>,
    /// Strength, a finite number on the strategy's own scale.
    pub strength: f64,
    /// Price at the time of the signal; finite. It is positive unless the symbol allows others.
    pub price: f64,
    /// Event time in µs since 1970.
    pub ts_us: i64,
    /// Time at which the signal expires in µs since 1970: event time plus `ttl_ms`.
    pub expires_us: i64,
    /// Revision of the entry.
    pub revision: Revision,
}

impl Signal {
    /// Validates an entry of `stream:signals`.
    ///
    /// With `before_1973` times before 1973 are accepted.
    pub fn from_entry(entry: &Entry, before_1973: bool) -> Result<Self, Rejection> {
        let ts_us = parse_ts_us(entry.optional("ts_us"))?;
        check_unit(ts_us, before_1973)?;
        let ttl_ms: u32 = entry.integer("ttl_ms")?;
        Ok(Self {
            signal_id: short_text(entry, "signal_id")?,
            symbol: entry.parsed("symbol")?,
            strategy: short_text(entry, "strategy")?,
            side: short_text(entry, "side")?,
            strength: parse_double("strength", entry.required("strength")?)?,
            price: parse_double("price", entry.required("price")?)?,
            ts_us,
            expires_us: ts_us + i64::from(ttl_ms) * 1_000,
            revision: entry.id.try_into()?,
        })
    }
}

fn short_text(entry: &Entry, field: &'static str) -> Result<Box<str>, Rejection> {
    let text = utf8(field, entry.required(field)?)?;
    if (1..=128).contains(&text.len()) && !text.contains('\0') {
        Ok(text.into())
    } else {
        Err(invalid(field, "must have 1 to 128 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::stream_id::StreamId;

    fn entry(ttl_ms: &str) -> Entry {
        let fields = [
            ("signal_id", "s-1"),
            ("symbol", "BTCUSDT"),
            ("strategy", "breakout"),
            ("side", "buy"),
            ("strength", "0.8"),
            ("price", "42000"),
            ("ts_us", "1700000000000000"),
            ("ttl_ms", ttl_ms),
        ];
        Entry::new(StreamId::at_ms(1_700_000_000_001), fields)
    }

    #[test]
    fn expires_a_ttl_after_its_event_time() {
        assert_eq!(
            Signal::from_entry(&entry("1500"), false).unwrap().expires_us,
            1_700_000_001_500_000
        );
    }

    #[test]
    fn a_time_in_another_unit_is_named() {
        let fields = entry("1500");
        let in_ms = fields.fields().map(|(name, value)| match name {
            b"ts_us" => (name, &b"1700000000000"[..]),
            _ => (name, value),
        });
        let in_ms = Entry::new(fields.id, in_ms);
        let reason = Signal::from_entry(&in_ms, false).unwrap_err().to_string();
        assert!(reason.contains("looks like milliseconds"), "{reason}");
        assert!(Signal::from_entry(&in_ms, true).is_ok());
    }

    #[test]
    fn an_invalid_ttl_is_named() {
        assert!(
            Signal::from_entry(&entry("-1"), false)
                .unwrap_err()
                .to_string()
                .contains("ttl_ms")
        );
    }
}
