//! Parsers of values on the command line.

use storage_core::config::Misconfigured;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::time::{TimeRange, parse_rfc3339};
use storage_core::postgres::queries::rollups::ALWAYS;

/// Parses RFC 3339, or a day in UTC, to µs since 1970.
pub(crate) fn time(text: &str) -> Result<i64, String> {
    let day = || parse_rfc3339(&format!("{text}T00:00:00Z"));
    parse_rfc3339(text)
        .or_else(|_| day())
        .map_err(|_| "write 2019-10-11T00:00:00Z or 2019-10-11".to_owned())
}

/// Returns the range of `--from` and `--to`, which is unlimited where they are missing.
pub(crate) fn range(from: Option<i64>, to: Option<i64>) -> Result<TimeRange, Misconfigured> {
    let range = TimeRange {
        from_us: from.unwrap_or(ALWAYS.from_us),
        to_us: to.unwrap_or(ALWAYS.to_us),
    };
    match range.from_us < range.to_us {
        true => Ok(range),
        false => Err(Misconfigured::new("--from must be before --to")),
    }
}

/// Returns the last revision that an entry accepted up to the millisecond of `us` can have.
pub(crate) fn revision_at(us: i64) -> anyhow::Result<Revision> {
    let next_ms = u64::try_from(us / 1_000 + 1)?;
    Ok(StreamId::at_ms(next_ms).try_into().map(Revision::before)?)
}

/// Returns the key of a stream; the prefix `stream:` may be left out.
pub(crate) fn stream_key(name: &str) -> String {
    match name.starts_with("stream:") {
        true => name.to_owned(),
        false => format!("stream:{name}"),
    }
}
