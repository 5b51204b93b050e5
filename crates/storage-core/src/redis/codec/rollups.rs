//! Rollups: times whose larger timeframes must be refreshed, on `stream:rollups`.

use crate::domain::entry::{Entry, invalid};
use crate::domain::rejection::Rejection;
use crate::domain::time::{TimeRange, parse_rfc3339, rfc3339};
use crate::redis::stream::Fields;

/// The entry's fields.
pub fn entry_fields(range: TimeRange) -> Fields {
    vec![("from", rfc3339(range.from_us)), ("to", rfc3339(range.to_us))]
}

/// Reads an entry.
///
/// # Errors
/// When a field is missing or is not what [`entry_fields`] writes.
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
