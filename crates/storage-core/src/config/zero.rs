//! Refuses zero, as a count or as a duration, unless the program allows it for the key; this covers a key that is added
//! later. With a zero a worker would mostly be ready and do nothing, or run in a loop without a pause.

use std::time::Duration;

use figment::value::{Dict, Value};
use humantime_serde::re::humantime::parse_duration;

/// Keys of shared sections that may be zero.
const ALLOWED: [&str; 1] = ["postgres.statement_timeout"];

/// The shortest duration: Redis and PostgreSQL are given whole milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

/// Returns the first key that is zero and must not be, and the limit that it breaks. `is_text` returns `true` for a key
/// that takes any text, where `0s` is not a duration.
pub(super) fn find(keys: &Dict, allowed: &[&str], is_text: impl Fn(&str) -> bool) -> Option<(String, &'static str)> {
    let mut found = Vec::new();
    collect(keys, "", &mut found);
    found
        .into_iter()
        .filter(|(key, _)| ALLOWED.iter().chain(allowed).all(|allowed| allowed != key))
        .find_map(|(key, value)| match value {
            Value::String(_, text) => {
                let is_short = parse_duration(text).is_ok_and(|duration| duration < SHORTEST);
                (is_short && !is_text(&key)).then_some((key, "must be at least 1ms"))
            }
            number => is_zero(number).then_some((key, "must be greater than 0")),
        })
}

/// Returns `true` if the value is a number that is not greater than 0.
fn is_zero(value: &Value) -> bool {
    value.to_u128() == Some(0)
        || value.to_i128().is_some_and(|number| number <= 0)
        || value.to_f64().is_some_and(|number| number <= 0.0)
}

/// Collects every value and its key, `section.key`.
fn collect<'a>(keys: &'a Dict, path: &str, found: &mut Vec<(String, &'a Value)>) {
    for (key, value) in keys {
        match value {
            Value::Dict(_, keys) => collect(keys, &format!("{path}{key}."), found),
            value => found.push((format!("{path}{key}"), value)),
        }
    }
}
