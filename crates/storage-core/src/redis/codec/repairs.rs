//! Repairs: minutes that must be computed again from `ticks`, on `stream:repairs`.

use crate::domain::entry::{Entry, invalid};
use crate::domain::rejection::Rejection;
use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::time::{parse_rfc3339, rfc3339};
use crate::redis::stream::Fields;

/// A minute to compute again, once `ticks` holds everything up to `revision`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repair {
    /// The symbol.
    pub symbol: Symbol,
    /// The minute's start in µs since 1970.
    pub start_us: i64,
    /// The last tick entry that the minute is known to hold.
    pub revision: Revision,
}

/// The entry's fields.
pub fn entry_fields(repair: &Repair) -> Fields {
    vec![
        ("symbol", repair.symbol.to_string()),
        ("time", rfc3339(repair.start_us)),
        ("revision", repair.revision.to_string()),
    ]
}

/// Reads an entry.
///
/// # Errors
/// When a field is missing or is not what [`entry_fields`] writes.
pub fn decode_entry(entry: &Entry) -> Result<Repair, Rejection> {
    let time: String = entry.parsed("time")?;
    Ok(Repair {
        symbol: entry.parsed("symbol")?,
        start_us: parse_rfc3339(&time).map_err(|error| invalid("time", error))?,
        revision: entry.parsed("revision")?,
    })
}
