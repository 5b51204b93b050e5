//! Refuses zero, as a count or as a duration, for every key that [`ZERO_MEANS`] does not name: a key that is added later is refused
//! it, too. Most would mean a worker that is ready and does nothing, or does nothing else.

use std::time::Duration;

use figment::value::{Dict, Value};
use humantime_serde::re::humantime::parse_duration;

/// The keys for which zero means something, and what.
pub const ZERO_MEANS: [(&str, &str); 11] = [
    ("postgres.statement_timeout", "no limit"),
    ("hot.close_grace", "a minute is closed as soon as it has ended"),
    ("warm.batch_wait", "a batch takes what is there"),
    ("admin.rollup_collect", "every range is refreshed by itself"),
    ("backup.redis_every", "no backups of Redis"),
    ("backup.postgres_every", "no logical backups of the database"),
    ("backup.base_every", "no base backups"),
    ("backup.verify_every", "no checks"),
    ("backup.keep_daily", "no backup stays for its day"),
    ("backup.keep_weekly", "no backup stays for its week"),
    ("backup.leftovers_after", "leftovers go with the next prune"),
];

/// The shortest duration: what Redis and PostgreSQL are told is cut to whole milliseconds.
const SHORTEST: Duration = Duration::from_millis(1);

/// The first key of a configuration that is zero and must not be, and what it must be. `is_text` says whether a key takes any text, so
/// that `0s` is no duration there.
pub(super) fn find(keys: &Dict, is_text: impl Fn(&str) -> bool) -> Option<(String, &'static str)> {
    let mut found = Vec::new();
    collect(keys, "", &mut found);
    found
        .into_iter()
        .filter(|(key, _)| ZERO_MEANS.iter().all(|(allowed, _)| allowed != key))
        .find_map(|(key, value)| match value {
            Value::String(_, text) => {
                let is_short = parse_duration(text).is_ok_and(|duration| duration < SHORTEST);
                (is_short && !is_text(&key)).then_some((key, "must be at least 1ms"))
            }
            number => is_zero(number).then_some((key, "must be greater than 0")),
        })
}

/// Returns `true` for a number that is not greater than 0.
fn is_zero(value: &Value) -> bool {
    value.to_u128() == Some(0)
        || value.to_i128().is_some_and(|number| number <= 0)
        || value.to_f64().is_some_and(|number| number <= 0.0)
}

/// Every value and its key, `section.key`.
fn collect<'a>(keys: &'a Dict, path: &str, found: &mut Vec<(String, &'a Value)>) {
    for (key, value) in keys {
        match value {
            Value::Dict(_, keys) => collect(keys, &format!("{path}{key}."), found),
            value => found.push((format!("{path}{key}"), value)),
        }
    }
}
