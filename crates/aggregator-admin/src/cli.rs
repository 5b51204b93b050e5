//! Parsers of values on the command line.

use std::time::Duration;

use storage_core::domain::time::parse_rfc3339;

/// Parses RFC 3339, or a day in UTC, to µs since 1970.
pub(crate) fn time(text: &str) -> Result<i64, String> {
    let day = || parse_rfc3339(&format!("{text}T00:00:00Z"));
    parse_rfc3339(text)
        .or_else(|_| day())
        .map_err(|_| "write 2019-10-11T00:00:00Z or 2019-10-11".to_owned())
}

/// Parses a duration such as `30s` or `5m`.
pub(crate) fn duration(text: &str) -> Result<Duration, humantime_serde::re::humantime::DurationError> {
    humantime_serde::re::humantime::parse_duration(text)
}
