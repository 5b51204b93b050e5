//! Candles: hashes `candle:current:*` and `candle:recent:*`, entries of `stream:candles:<P>`, and messages on
//! `candle:*`.

use std::collections::HashMap;

use serde::Serialize;

use super::{as_text, json};
use crate::domain::candle::{Candle, CandleState};
use crate::domain::decimal::Decimal;
use crate::domain::entry::Fields;
use crate::domain::entry::{Entry, invalid, parsed, required, utf8};
use crate::domain::rejection::Rejection;
use crate::domain::stream_id::{Revision, StreamId};
use crate::domain::symbol::Symbol;
use crate::domain::time::{parse_rfc3339, rfc3339};

/// Encodes a hash.
pub fn hash_fields(candle: &Candle, is_final: bool) -> Fields {
    vec![
        ("time", rfc3339(candle.start_us)),
        ("open", candle.open.to_string()),
        ("high", candle.high.to_string()),
        ("low", candle.low.to_string()),
        ("close", candle.close.to_string()),
        ("volume", candle.volume.to_string()),
        ("trades", candle.trades.to_string()),
        ("first_us", candle.first_us.to_string()),
        ("last_us", candle.last_us.to_string()),
        ("revision", candle.revision.to_string()),
        ("since", candle.since.to_string()),
        ("final", u8::from(is_final).to_string()),
    ]
}

/// Fields of a candle that most ticks leave as they are, and that have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangedFields {
    /// `open` and `first_us`.
    pub open: bool,
    /// `high`.
    pub high: bool,
    /// `low`.
    pub low: bool,
    /// `time` and `since`, and with them all fields.
    pub all: bool,
}

impl ChangedFields {
    /// All fields.
    pub const ALL: Self = Self {
        open: true,
        high: true,
        low: true,
        all: true,
    };

    /// Returns the fields that differ between two states of one candle.
    pub fn between(before: &Candle, after: &Candle) -> Self {
        Self {
            open: before.first_us != after.first_us,
            high: before.high != after.high,
            low: before.low != after.low,
            all: before.since != after.since,
        }
    }

    /// Returns the fields that are in either.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            open: self.open || other.open,
            high: self.high || other.high,
            low: self.low || other.low,
            all: self.all || other.all,
        }
    }
}

/// Encodes the fields of a hash that `changed` names and those that every tick changes.
pub fn changed_hash_fields(candle: &Candle, is_final: bool, changed: ChangedFields) -> Fields {
    let mut fields = hash_fields(candle, is_final);
    fields.retain(|(name, _)| match *name {
        "open" | "first_us" => changed.open,
        "high" => changed.high,
        "low" => changed.low,
        "time" | "since" => changed.all,
        _ => true,
    });
    fields
}

/// Encodes the entry of a closed 1-minute candle.
pub fn entry_fields(symbol: &Symbol, candle: &Candle) -> Fields {
    let mut fields = vec![("symbol", symbol.to_string())];
    fields.extend(hash_fields(candle, true));
    fields
}

/// A message. Revisions and volumes are text because a double can't hold them exactly.
#[derive(Serialize)]
struct Message<'a> {
    symbol: &'a str,
    time: String,
    open: f64,
    high: f64,
    low: f64,
    close: f64,
    #[serde(serialize_with = "as_text")]
    volume: Decimal,
    trades: i64,
    first_us: i64,
    last_us: i64,
    #[serde(serialize_with = "as_text")]
    revision: Revision,
    #[serde(serialize_with = "as_text")]
    since: Revision,
    #[serde(rename = "final")]
    is_final: bool,
}

/// Encodes a message.
pub fn message(symbol: &Symbol, candle: &Candle, is_final: bool) -> String {
    json(&Message {
        symbol: symbol.as_str(),
        time: rfc3339(candle.start_us),
        open: candle.open,
        high: candle.high,
        low: candle.low,
        close: candle.close,
        volume: candle.volume,
        trades: candle.trades,
        first_us: candle.first_us,
        last_us: candle.last_us,
        revision: candle.revision,
        since: candle.since,
        is_final,
    })
}

/// Decodes an entry.
pub fn decode_entry(entry: &Entry) -> Result<(Symbol, Candle), Rejection> {
    Ok((entry.parsed("symbol")?, decode(entry)?.candle))
}

/// Decodes a hash; `None` if it is empty, as for a key that does not exist.
pub fn decode_hash(hash: HashMap<Vec<u8>, Vec<u8>>) -> Result<Option<CandleState>, Rejection> {
    if hash.is_empty() {
        return Ok(None);
    }
    decode(&Entry::new(StreamId::START, hash)).map(Some)
}

fn decode(entry: &Entry) -> Result<CandleState, Rejection> {
    let [
        time,
        open,
        high,
        low,
        close,
        volume,
        trades,
        first_us,
        last_us,
        revision,
        since,
        is_final,
    ] = entry.pick([
        "time", "open", "high", "low", "close", "volume", "trades", "first_us", "last_us", "revision", "since", "final",
    ]);
    let time = utf8("time", required("time", time)?)?;
    let candle = Candle {
        start_us: parse_rfc3339(time).map_err(|error| invalid("time", error))?,
        open: parsed("open", open)?,
        high: parsed("high", high)?,
        low: parsed("low", low)?,
        close: parsed("close", close)?,
        volume: parsed("volume", volume)?,
        trades: parsed("trades", trades)?,
        first_us: parsed("first_us", first_us)?,
        last_us: parsed("last_us", last_us)?,
        since: parsed("since", since)?,
        revision: parsed("revision", revision)?,
    };
    Ok(CandleState {
        candle,
        is_final: required("final", is_final)? == b"1",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::timeframe::Timeframe;

    fn candle() -> Candle {
        let mut candle = Candle::of_tick(
            Timeframe::M1,
            1_570_752_011_620_000,
            0.00141342,
            "23".parse().unwrap(),
            7.try_into().unwrap(),
        );
        let volume = candle
            .volume
            .checked_add("0.00031099999999999997".parse().unwrap())
            .unwrap();
        candle.fold(
            1_570_752_012_000_000,
            0.00141266,
            volume,
            (1_i64 << 62).try_into().unwrap(),
        );
        candle
    }

    #[test]
    fn hash_and_entry_read_back_as_written() {
        let written = hash_fields(&candle(), false).into_iter();
        let hash = written.map(|(k, v)| (k.as_bytes().to_vec(), v.into_bytes())).collect();
        assert_eq!(
            decode_hash(hash),
            Ok(Some(CandleState {
                candle: candle(),
                is_final: false
            }))
        );
        let symbol: Symbol = "XRPETH".parse().unwrap();
        let entry = Entry::new(StreamId::START, entry_fields(&symbol, &candle()));
        assert_eq!(decode_entry(&entry), Ok((symbol, candle())));
        assert_eq!(decode_hash(HashMap::new()), Ok(None));
    }

    #[test]
    fn revision_and_volume_are_text_in_a_message() {
        let message: serde_json::Value =
            serde_json::from_str(&message(&"XRPETH".parse().unwrap(), &candle(), true)).unwrap();
        assert_eq!(message["revision"], "4611686018427387904");
        assert_eq!(message["volume"], "23.00031099999999999997");
        assert_eq!(message["final"], true);
        assert_eq!(message["time"], "2019-10-11T00:00:00Z");
    }
}
