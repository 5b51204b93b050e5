//! Entries of `stream:rollups`: time ranges whose larger timeframes must be refreshed.

use crate::domain::entry::Fields;
use crate::domain::entry::{Entry, invalid};
use crate::domain::rejection::Rejection;
use crate::domain::time::{TimeRange, parse_rfc3339, rfc3339};

/// Encodes an entry.
pub fn entry_fields(range: TimeRange) -> Fields {
    vec![("from", rfc3339(range.from_us)), ("to", rfc3339(range.to_us))]
}

/// Decodes an entry.
pub fn decode_entry(entry: &Entry) -> Result<TimeRange, Rejection> {
    let time = |field: &'static str| {
        let text: String = entry.parsed(field)?;
        parse_rfc3339(&text).map_err(|error| invalid(field, error))
    };
    let range = TimeRange {
        from_us: time("from")?,
        to_us: time("to")?,
    };
    if range.from_us < range.to_us {
        Ok(range)
    } else {
        Err(invalid("to", "must be after `from`"))
    }
}
