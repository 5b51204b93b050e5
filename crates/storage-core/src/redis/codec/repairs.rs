//! Entries of `stream:repairs`: minutes that must be computed again from `ticks`, and candles whose beginning
//! hot-writer has lost.

use crate::domain::entry::Fields;
use crate::domain::entry::{Entry, invalid};
use crate::domain::rejection::Rejection;
use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::time::{parse_rfc3339, rfc3339};
use crate::domain::timeframe::Timeframe;

/// A minute to compute again after `ticks` contains every entry up to `revision`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Repair {
    /// Symbol of the minute.
    pub symbol: Symbol,
    /// Start of the minute in µs since 1970.
    pub start_us: i64,
    /// Last tick entry known to belong to the minute.
    pub revision: Revision,
}

/// The beginning of a candle that hot-writer has lost: the ticks of its bucket up to `revision`, to compute after
/// `ticks` contains all of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Base {
    /// Symbol of the candle.
    pub symbol: Symbol,
    /// Timeframe of the candle.
    pub timeframe: Timeframe,
    /// Start of the bucket in µs since 1970.
    pub start_us: i64,
    /// Last tick entry of the base.
    pub revision: Revision,
}

/// A task on `stream:repairs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// A minute of the history.
    Minute(Repair),
    /// The beginning of a candle of the hot view.
    Base(Base),
}

/// Encodes the request for a base.
pub fn base_fields(base: &Base) -> Fields {
    vec![
        ("symbol", base.symbol.to_string()),
        ("time", rfc3339(base.start_us)),
        ("timeframe", base.timeframe.to_string()),
        ("revision", base.revision.to_string()),
    ]
}

/// Decodes an entry of either kind.
pub fn decode_task(entry: &Entry) -> Result<Task, Rejection> {
    let repair = decode_entry(entry)?;
    if entry.optional("timeframe").is_none() {
        return Ok(Task::Minute(repair));
    }
    Ok(Task::Base(Base {
        timeframe: entry.parsed("timeframe")?,
        symbol: repair.symbol,
        start_us: repair.start_us,
        revision: repair.revision,
    }))
}

/// Encodes the request for a repair.
pub fn entry_fields(repair: &Repair) -> Fields {
    vec![
        ("symbol", repair.symbol.to_string()),
        ("time", rfc3339(repair.start_us)),
        ("revision", repair.revision.to_string()),
    ]
}

/// Decodes an entry as a repair.
pub fn decode_entry(entry: &Entry) -> Result<Repair, Rejection> {
    let time: String = entry.parsed("time")?;
    Ok(Repair {
        symbol: entry.parsed("symbol")?,
        start_us: parse_rfc3339(&time).map_err(|error| invalid("time", error))?,
        revision: entry.parsed("revision")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::stream_id::StreamId;

    #[test]
    fn tasks_of_both_kinds_read_back_as_written() {
        let repair = Repair {
            symbol: "XRPETH".parse().unwrap(),
            start_us: 60_000_000,
            revision: 7.try_into().unwrap(),
        };
        let base = Base {
            symbol: repair.symbol.clone(),
            timeframe: Timeframe::H4,
            start_us: 0,
            revision: repair.revision,
        };
        let entry = |fields: Fields| Entry::new(StreamId::START, fields);
        assert_eq!(decode_task(&entry(base_fields(&base))), Ok(Task::Base(base)));
        assert_eq!(decode_task(&entry(entry_fields(&repair))), Ok(Task::Minute(repair)));
    }
}
