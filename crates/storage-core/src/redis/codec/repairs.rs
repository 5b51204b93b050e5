//! Repairs: minutes that must be computed again from `ticks`, and candles of which hot-writer lacks the beginning, on
//! `stream:repairs`.

use crate::domain::entry::{Entry, invalid};
use crate::domain::rejection::Rejection;
use crate::domain::stream_id::Revision;
use crate::domain::symbol::Symbol;
use crate::domain::time::{parse_rfc3339, rfc3339};
use crate::domain::timeframe::Timeframe;
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

/// The beginning of a candle that hot-writer lacks: the ticks of its bucket up to `revision`, once `ticks` holds them all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Base {
    /// The symbol.
    pub symbol: Symbol,
    /// The candle's timeframe.
    pub timeframe: Timeframe,
    /// The bucket's start in µs since 1970.
    pub start_us: i64,
    /// The last tick entry that belongs to it.
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

/// The fields of the entry that asks for a base.
pub fn base_fields(base: &Base) -> Fields {
    vec![
        ("symbol", base.symbol.to_string()),
        ("time", rfc3339(base.start_us)),
        ("timeframe", base.timeframe.to_string()),
        ("revision", base.revision.to_string()),
    ]
}

/// Reads an entry of either kind.
///
/// # Errors
/// When a field is missing or is not what [`entry_fields`] or [`base_fields`] writes.
pub fn decode_task(entry: &Entry) -> Result<Task, Rejection> {
    let Repair {
        symbol,
        start_us,
        revision,
    } = decode_entry(entry)?;
    if entry.optional("timeframe").is_none() {
        return Ok(Task::Minute(Repair {
            symbol,
            start_us,
            revision,
        }));
    }
    Ok(Task::Base(Base {
        timeframe: entry.parsed("timeframe")?,
        symbol,
        start_us,
        revision,
    }))
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
