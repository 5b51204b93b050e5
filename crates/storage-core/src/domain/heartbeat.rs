//! [`Heartbeat`] of a feed, and [`Coverage`], the times that heartbeats cover.

use std::collections::BTreeSet;
use std::time::Duration;

use super::entry::{Entry, invalid, utf8};
use super::event_time::{check_unit, parse_ts_us};
use super::rejection::Rejection;
use super::symbol::Symbol;
use super::time::duration_us;

/// Report of a feed that it is connected and subscribed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// Name of the feed, up to 128 bytes.
    pub feed: String,
    /// Time of the report in µs since 1970.
    pub ts_us: i64,
    /// Symbols that the feed is subscribed to; `None` if they are those of the last heartbeat.
    pub symbols: Option<BTreeSet<Symbol>>,
    /// `true` if the feed is no longer connected.
    pub is_down: bool,
}

impl Heartbeat {
    /// Validates an entry of `stream:feeds`. With `before_1973` times before 1973 are accepted.
    pub fn from_entry(entry: &Entry, before_1973: bool) -> Result<Self, Rejection> {
        let feed = utf8("feed", entry.required("feed")?)?.trim();
        if !(1..=128).contains(&feed.len()) || feed.chars().any(char::is_control) {
            return Err(invalid("feed", "must have 1 to 128 bytes without control characters"));
        }
        let ts_us = parse_ts_us(entry.optional("ts_us"))?;
        check_unit(ts_us, before_1973)?;
        let is_down = match entry.optional("state") {
            None | Some(b"up" | b"") => false,
            Some(b"down") => true,
            Some(_) => return Err(invalid("state", "must be `up` or `down`")),
        };
        let symbols = match entry.optional("symbols") {
            None => None,
            Some(symbols) => Some(
                utf8("symbols", symbols)?
                    .split_whitespace()
                    .map(|symbol| symbol.parse().map_err(|error| invalid("symbols", error)))
                    .collect::<Result<_, _>>()?,
            ),
        };
        Ok(Self {
            feed: feed.to_owned(),
            ts_us,
            symbols,
            is_down,
        })
    }
}

/// Time in which a feed was connected and subscribed to the same symbols without interruption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// Name of the feed.
    pub feed: String,
    /// First heartbeat in µs since 1970.
    pub since_us: i64,
    /// Last heartbeat in µs since 1970.
    pub until_us: i64,
    /// Symbols of the feed.
    pub symbols: BTreeSet<Symbol>,
    /// `true` if the feed has announced the end of this time.
    pub is_down: bool,
}

impl Coverage {
    /// Adds a heartbeat of the same feed, and returns the new coverage that begins with it, if any. `last` is the
    /// latest coverage of the feed. A feed without a heartbeat for longer than `timeout` was not connected. A heartbeat
    /// that was added before changes nothing.
    pub fn extend(last: Option<&mut Self>, heartbeat: &Heartbeat, timeout: Duration) -> Option<Self> {
        let new = |symbols: BTreeSet<Symbol>| Self {
            feed: heartbeat.feed.clone(),
            since_us: heartbeat.ts_us,
            until_us: heartbeat.ts_us,
            symbols,
            is_down: false,
        };
        let Some(last) = last else {
            return (!heartbeat.is_down).then(|| new(heartbeat.symbols.clone().unwrap_or_default()));
        };
        if heartbeat.ts_us < last.until_us {
            return None;
        }
        let symbols = heartbeat.symbols.clone().unwrap_or_else(|| last.symbols.clone());
        let continues = !last.is_down && heartbeat.ts_us - last.until_us <= duration_us(timeout);
        if continues {
            last.until_us = heartbeat.ts_us;
        }
        last.is_down |= heartbeat.is_down;
        let begins = !heartbeat.is_down && (!continues || symbols != last.symbols) && heartbeat.ts_us > last.since_us;
        begins.then(|| new(symbols))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::stream_id::StreamId;

    const TIMEOUT: Duration = Duration::from_secs(30);

    fn entry(fields: &[(&str, &str)]) -> Entry {
        let all = [("feed", "binance-spot"), ("ts_us", "1700000000000000")];
        Entry::new(StreamId::at_ms(1), all.iter().chain(fields).copied())
    }

    fn symbols(text: &str) -> BTreeSet<Symbol> {
        text.split_whitespace().map(|symbol| symbol.parse().unwrap()).collect()
    }

    fn beat(second: i64, of: Option<&str>, is_down: bool) -> Heartbeat {
        Heartbeat {
            feed: "f".to_owned(),
            ts_us: second * 1_000_000,
            symbols: of.map(symbols),
            is_down,
        }
    }

    /// Returns `since-until symbols` of each coverage.
    fn coverage(beats: &[Heartbeat]) -> Vec<String> {
        let mut all: Vec<Coverage> = Vec::new();
        for beat in beats {
            let new = Coverage::extend(all.last_mut(), beat, TIMEOUT);
            all.extend(new);
        }
        let shown = |row: &Coverage| {
            let symbols: Vec<&str> = row.symbols.iter().map(Symbol::as_str).collect();
            format!(
                "{}-{} {}",
                row.since_us / 1_000_000,
                row.until_us / 1_000_000,
                symbols.join(" ")
            )
        };
        all.iter().map(shown).collect()
    }

    #[test]
    fn an_entry_is_decoded() {
        let heartbeat = Heartbeat::from_entry(&entry(&[("symbols", "BTCUSDT ETHUSDT")]), false).unwrap();
        assert_eq!(heartbeat.symbols, Some(symbols("ETHUSDT BTCUSDT")));
        assert!(!heartbeat.is_down);
        assert!(
            Heartbeat::from_entry(&entry(&[("state", "down")]), false)
                .unwrap()
                .is_down
        );
        for bad in [("state", "asleep"), ("symbols", "A:B"), ("ts_us", "soon")] {
            assert!(
                Heartbeat::from_entry(&entry(&[bad]), false).is_err() || bad.0 == "ts_us",
                "{bad:?}"
            );
        }
        assert!(Heartbeat::from_entry(&Entry::new(StreamId::at_ms(1), [("ts_us", "1")]), false).is_err());
    }

    #[test]
    fn heartbeats_extend_the_coverage_until_they_pause_or_the_feed_is_down() {
        let beats = [
            beat(0, Some("A B"), false),
            beat(5, None, false),
            beat(35, None, false),
            // 31 seconds without a heartbeat.
            beat(66, None, false),
            beat(70, None, true),
            beat(72, None, false),
            beat(80, Some("A C"), false),
            beat(85, None, false),
        ];
        let expected = ["0-35 A B", "66-70 A B", "72-80 A B", "80-85 A C"];
        assert_eq!(coverage(&beats), expected);
        // A batch that is processed twice.
        let repeated: Vec<Heartbeat> = beats.iter().chain(&beats).cloned().collect();
        assert_eq!(coverage(&repeated), expected);
        assert_eq!(coverage(&[beat(1, None, true)]), Vec::<String>::new());
    }
}
