//! Entries of `stream:feeds`. [`Heartbeat::from_entry`] decodes them.

use crate::domain::entry::Fields;
use crate::domain::heartbeat::Heartbeat;
use crate::domain::symbol::Symbol;

/// Encodes an entry.
pub fn entry_fields(heartbeat: &Heartbeat) -> Fields {
    let mut fields = vec![("feed", heartbeat.feed.clone()), ("ts_us", heartbeat.ts_us.to_string())];
    fields.extend(heartbeat.symbols.as_ref().map(|symbols| {
        let names: Vec<&str> = symbols.iter().map(Symbol::as_str).collect();
        ("symbols", names.join(" "))
    }));
    fields.extend(heartbeat.is_down.then(|| ("state", "down".to_owned())));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::entry::Entry;
    use crate::domain::stream_id::StreamId;

    #[test]
    fn a_heartbeat_is_read_as_it_was_written() {
        for (symbols, is_down) in [(None, false), (None, true), (Some(vec!["BTCUSDT", "ETHUSDT"]), false)] {
            let heartbeat = Heartbeat {
                feed: "binance-spot".to_owned(),
                ts_us: 1_700_000_000_000_000,
                symbols: symbols.map(|symbols| symbols.iter().map(|symbol| symbol.parse().unwrap()).collect()),
                is_down,
            };
            let entry = Entry::new(StreamId::at_ms(1), entry_fields(&heartbeat));
            assert_eq!(Heartbeat::from_entry(&entry, false), Ok(heartbeat));
        }
    }
}
