//! Refuses settings of policies and chunks that lose data or have no effect. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use storage_core::config::Misconfigured;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;

use super::{HOUR, RETAINABLE, chunk_setting, days, length, refresh_delay, retention};
use crate::config::{AdminConfig, DAY};

/// Refuses settings that lose data or make no sense together.
pub(crate) fn settings(config: &AdminConfig) -> Result<(), Misconfigured> {
    match objections(config).as_slice() {
        [] => Ok(()),
        objections => Err(Misconfigured::new(objections.join("; "))),
    }
}

/// Returns an objection for each wrong setting, with the required value and the reason.
fn objections(config: &AdminConfig) -> Vec<String> {
    let mut found = objections_to_ages(config);
    found.extend(objections_to_schedules(config));
    found.extend(
        RETAINABLE
            .into_iter()
            .filter_map(|table| objection_to_chunks(config, table)),
    );
    found
}

fn objections_to_ages(config: &AdminConfig) -> Vec<String> {
    let window = config.refresh_window;
    let mut found = Vec::new();
    for timeframe in Timeframe::ALL {
        let table = timeframe.table();
        if retention(config, table).is_none_or(|kept| kept >= window + 2 * DAY) {
            continue;
        }
        // A refresh would treat dropped days as days without trades, and create dropped candles again.
        let reason = match timeframe {
            Timeframe::D1 => "a refresh would compute dropped candles again",
            _ => "a refresh of dropped candles deletes the larger ones computed from them",
        };
        found.push(format!(
            "admin.retain_{table} must be at least {} (admin.refresh_window plus 2 days): {reason}",
            days(window + 2 * DAY)
        ));
    }
    if config.retain_ticks.is_some_and(|kept| kept < window) {
        found.push(format!(
            "admin.retain_ticks must be at least {} (admin.refresh_window): the minute of a late tick is computed from \
             all of its ticks",
            days(window)
        ));
    }
    if window < 3 * DAY {
        found.push(
            "admin.refresh_window must be at least 3days: TimescaleDB requires two whole buckets of the largest \
             timeframe in it"
                .to_owned(),
        );
    }
    if config.compress_after < Duration::from_secs(3_600) {
        found.push(
            "admin.compress_after must be at least 1h: candles are amended that long, and changes of a compressed \
             chunk are slow"
                .to_owned(),
        );
    }
    found
}

fn objections_to_schedules(config: &AdminConfig) -> Vec<String> {
    let schedules = [
        ("refresh_every", config.refresh_every),
        ("compress_every", config.compress_every),
        ("retain_every", config.retain_every),
    ];
    let mut found = Vec::new();
    for (key, every) in schedules {
        let Some(every) = every else { continue };
        if every.subsec_nanos() != 0 {
            found.push(format!("admin.{key} must be whole seconds"));
        }
        if every < config.policy_interval {
            found.push(format!(
                "admin.{key} must be at least {} (admin.policy_interval): where TimescaleDB has no scheduler, \
                 aggregator-admin looks for due policies that often",
                days(config.policy_interval)
            ));
        }
    }
    let kept = RETAINABLE.map(|table| (table, retention(config, table)));
    let kept = kept.into_iter().filter_map(|(table, kept)| Some((table, kept?)));
    let shortest = kept.clone().min_by_key(|(_, kept)| *kept);
    if let (Some(every), Some((table, kept))) = (config.retain_every, shortest)
        && every > kept
    {
        found.push(format!(
            "admin.retain_every must be at most {} (admin.retain_{table}): rows would be kept for more than twice as \
             long",
            days(kept)
        ));
    }
    let compressed = kept
        .filter(|(_, kept)| *kept > config.compress_after)
        .min_by_key(|(_, kept)| *kept);
    if let (Some(every), Some((table, kept))) = (config.compress_every, compressed)
        && config.compress_after.saturating_add(every) > kept
    {
        found.push(format!(
            "admin.compress_every must be at most {} (admin.retain_{table} less admin.compress_after): chunks would be \
             dropped before they are compressed",
            days(kept.saturating_sub(config.compress_after))
        ));
    }
    found
}

fn objection_to_chunks(config: &AdminConfig, table: &str) -> Option<String> {
    let chunk = chunk_setting(config, table)?;
    let bucket = Timeframe::ALL
        .into_iter()
        .find(|timeframe| timeframe.table() == table)
        .map_or(Duration::ZERO, length);
    let least = bucket.max(HOUR);
    let kept = retention(config, table);
    if chunk < least {
        return Some(format!(
            "admin.chunk_{table} must be at least {}: each chunk is a table, which a query has to plan and to lock",
            days(least)
        ));
    }
    if chunk.subsec_nanos() != 0 {
        return Some(format!("admin.chunk_{table} must be whole seconds"));
    }
    let kept = kept.filter(|kept| chunk > *kept)?;
    Some(format!(
        "admin.chunk_{table} must be at most {} (admin.retain_{table}): a chunk is dropped once all of it is older, so \
         rows would be kept for up to {}",
        days(kept),
        days(kept.saturating_add(chunk))
    ))
}

/// Refuses a refresh window in which some changes are not refreshed: a warm-syncer announces only changes that are
/// older, and a bucket is refreshed only while all of it is in the window. `announced` holds the age from which a
/// warm-syncer announces changes, by replica.
pub(crate) fn windows(
    config: &AdminConfig,
    edition: Edition,
    announced: &BTreeMap<String, Duration>,
) -> Result<(), Misconfigured> {
    let largest = announced.iter().max_by_key(|(_, age)| **age);
    let delay = refresh_delay(config, edition);
    let age = largest.map_or(Duration::ZERO, |(_, age)| *age);
    let least = age.saturating_add(DAY).saturating_add(delay);
    if config.refresh_window >= least {
        return Ok(());
    }
    let announced = largest.map_or_else(String::new, |(replica, age)| {
        format!("warm.refresh_window, which is {} at {replica}, and ", days(*age))
    });
    Err(Misconfigured::new(format!(
        "admin.refresh_window is {} but must be at least {} ({announced}a day and {}, in which every timeframe is \
         refreshed): no refresh would see minutes that change between these ages; set it, admin.refresh_every or \
         warm.refresh_window, and start the worker again",
        days(config.refresh_window),
        days(least),
        days(delay)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn refused(config: &AdminConfig, expected: &[&str]) {
        let found = objections(config);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    }

    #[test]
    fn settings_that_lose_data_are_refused_with_the_required_value() {
        let config = AdminConfig {
            retain_candles_1m: Some(5 * DAY),
            retain_ticks: Some(DAY),
            ..AdminConfig::default()
        };
        let expected = [
            "admin.retain_candles_1m must be at least 6days",
            "admin.retain_ticks must be at least 4days",
        ];
        refused(&config, &expected);
    }

    #[test]
    fn every_timeframe_is_kept_longer_than_refreshes_look_back() {
        let config = AdminConfig {
            retain_candles_1m: Some(6 * DAY),
            retain_candles_5m: Some(5 * DAY),
            retain_candles_4h: Some(6 * DAY - Duration::from_secs(1)),
            retain_candles_1d: Some(DAY),
            ..AdminConfig::default()
        };
        let tables = ["candles_5m", "candles_4h", "candles_1d"];
        let expected = tables.map(|table| format!("admin.retain_{table} must be at least 6days"));
        refused(&config, &expected.each_ref().map(String::as_str));
    }

    #[test]
    fn a_schedule_is_neither_shorter_than_the_looks_nor_longer_than_rows_are_kept() {
        let config = AdminConfig {
            refresh_every: Some(MINUTE / 2),
            compress_every: Some(5 * DAY + MINUTE),
            retain_every: Some(6 * DAY + MINUTE),
            retain_candles_1m: Some(8 * DAY),
            retain_ticks: Some(6 * DAY),
            ..AdminConfig::default()
        };
        let expected = [
            "admin.refresh_every must be at least 1m (admin.policy_interval)",
            "admin.retain_every must be at most 6days (admin.retain_ticks)",
            "admin.compress_every must be at most 5days (admin.retain_ticks less admin.compress_after)",
        ];
        refused(&config, &expected);
        let longest = AdminConfig {
            refresh_every: Some(MINUTE),
            compress_every: Some(5 * DAY),
            retain_every: Some(6 * DAY),
            ..config
        };
        refused(&longest, &[]);
        let fraction = AdminConfig {
            retain_every: Some(MINUTE + Duration::from_millis(1)),
            ..longest
        };
        refused(&fraction, &["admin.retain_every must be whole seconds"]);
    }

    #[test]
    fn compression_has_no_objection_to_a_table_that_it_never_reaches() {
        let config = AdminConfig {
            compress_after: 10 * DAY,
            compress_every: Some(10 * DAY),
            retain_ticks: Some(7 * DAY),
            retain_candles_1m: Some(20 * DAY),
            ..AdminConfig::default()
        };
        refused(&config, &[]);
    }

    #[test]
    fn a_chunk_holds_a_bucket_and_is_not_longer_than_its_rows_are_kept() {
        let config = AdminConfig {
            chunk_ticks: Some(MINUTE * 59),
            chunk_candles_1m: Some(8 * DAY + MINUTE),
            chunk_candles_5m: Some(HOUR + Duration::from_millis(1)),
            chunk_candles_1d: Some(DAY - MINUTE),
            chunk_signals: Some(HOUR),
            retain_candles_1m: Some(8 * DAY),
            ..AdminConfig::default()
        };
        let expected = [
            "admin.chunk_ticks must be at least 1h",
            "admin.chunk_candles_1m must be at most 8days (admin.retain_candles_1m)",
            "admin.chunk_candles_5m must be whole seconds",
            "admin.chunk_candles_1d must be at least 1day",
        ];
        refused(&config, &expected);
        assert!(objections(&config)[1].ends_with("rows would be kept for up to 16days 1m"));
    }

    #[test]
    fn a_default_chunk_may_be_longer_than_its_rows_are_kept() {
        let config = AdminConfig {
            retain_signals: Some(DAY),
            retain_candles_1d: Some(30 * DAY),
            ..AdminConfig::default()
        };
        refused(&config, &[]);
    }

    #[test]
    fn the_longest_settings_are_refused() {
        let longest = Some(Duration::from_secs(u64::MAX));
        let config = AdminConfig {
            refresh_every: longest,
            compress_every: longest,
            retain_every: longest,
            chunk_ticks: longest,
            retain_ticks: Some(7 * DAY),
            ..AdminConfig::default()
        };
        let expected = ["admin.retain_every", "admin.compress_every", "admin.chunk_ticks"];
        refused(&config, &expected);
        assert!(windows(&config, Edition::Community, &BTreeMap::new()).is_err());
    }

    fn announced(ages: &[Duration]) -> BTreeMap<String, Duration> {
        (0..).zip(ages).map(|(at, age)| (format!("warm-{at}"), *age)).collect()
    }

    #[test]
    fn the_refresh_window_reaches_beyond_that_of_every_warm_syncer() {
        let config = AdminConfig::default();
        let check = |ages: &[Duration]| windows(&config, Edition::Community, &announced(ages));
        // A day for the largest bucket; 5 and 15 minutes and three hours, until five policies have run.
        let longest = 3 * DAY - 200 * MINUTE;
        assert!(check(&[]).is_ok() && check(&[2 * DAY, longest]).is_ok());
        let refused = check(&[2 * DAY, longest + Duration::from_secs(1)])
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains("is 4days but must be at least 4days 1s") && refused.contains("warm-1"),
            "{refused}"
        );
    }

    #[test]
    fn the_refresh_window_allows_for_the_schedule() {
        let config = AdminConfig {
            refresh_every: Some(5 * HOUR),
            ..AdminConfig::default()
        };
        let check = |edition, ages: &[Duration]| windows(&config, edition, &announced(ages));
        assert!(check(Edition::Community, &[]).is_ok(), "no warm-syncer runs");
        let refused = check(Edition::Community, &[2 * DAY]).unwrap_err().to_string();
        assert!(refused.contains("is 4days but must be at least 4days 1h"), "{refused}");
        assert!(
            check(Edition::Apache, &[2 * DAY]).is_ok(),
            "one turn refreshes all timeframes"
        );
        let never = AdminConfig {
            refresh_every: Some(15 * HOUR),
            ..config
        };
        let refused = windows(&never, Edition::Community, &BTreeMap::new()).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("must be at least 4days 3h (a day and 3days 3h"),
            "{refused}"
        );
    }
}
