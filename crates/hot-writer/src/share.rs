//! Sets the rate at which this replica writes open candles, so that those of all replicas cost Redis the configured
//! share.
//!
//! The cost of a write is measured: the time of Redis for function calls by the number of hashes that they write. The
//! replicas exchange their numbers of waiting candles and divide the budget in proportion to these, so that candles get
//! equally old on all replicas, and a replica alone with its load gets nearly all.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::{Context, Result};
use storage_core::redis::clock::now_ms;
use storage_core::redis::connection::Connection;
use storage_core::redis::inspect::{Info, command_statistics};
use storage_core::redis::write_load::{WriteLoad, exchange};
use tokio::time::{Instant, sleep};

use crate::age::Ages;
use crate::budget::Budget;
use crate::config::Config;
use crate::metrics;

const INTERVAL: Duration = Duration::from_secs(1);
/// Cost of a write until it has been measured.
const INITIAL_COST: Duration = Duration::from_micros(6);
/// Limits of the measured cost.
const MIN_COST: Duration = Duration::from_micros(1);
const MAX_COST: Duration = Duration::from_millis(1);
/// Minimum number of writes in a measurement.
const MIN_WRITES: f64 = 100.0;

/// Returns the rate before the first measurement, in writes per second.
pub(crate) fn initial_rate(write_share: f64) -> f64 {
    write_share / INITIAL_COST.as_secs_f64()
}

/// Measures and sets the rate of `budget` at intervals in which candles were written or wait. An error leaves the rate
/// as it is.
pub(crate) async fn adjust(config: &Config, budget: &Budget, ages: &Ages) -> Infallible {
    let mut measurement = Measurement {
        conn: Connection::ordinary(&config.redis),
        replica: config.service.instance(&config.telemetry),
        write_share: config.hot.write_share,
        cost: INITIAL_COST,
        totals: None,
    };
    let mut last_writes = 0;
    let mut begun = Instant::now();
    loop {
        sleep(INTERVAL).await;
        let (writes, waiting) = budget.usage();
        let written = writes - last_writes;
        last_writes = writes;
        let elapsed = std::mem::replace(&mut begun, Instant::now()).elapsed();
        let per_s = f64::from(u32::try_from(written).unwrap_or(u32::MAX)) / elapsed.as_secs_f64();
        let share = per_s * measurement.cost.as_secs_f64();
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        metrics::WAITING_CANDLES.set(waiting.into());
        metrics::WRITE_SHARE.set(share);
        let max_age_ms = ages.take_max_ms();
        if written == 0 && waiting == 0 {
            continue;
        }
        match measurement.rate(waiting, share, max_age_ms).await {
            Ok(rate) => budget.set_rate(rate),
            Err(error) => tracing::debug!("could not measure the cost of open candles: {error:#}"),
        }
    }
}

struct Measurement {
    conn: Connection,
    replica: String,
    write_share: f64,
    cost: Duration,
    /// Totals of Redis at the last measurement.
    totals: Option<Totals>,
}

/// Totals since the start of Redis.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Totals {
    function_us: f64,
    writes: f64,
}

impl Measurement {
    /// Returns the rate of this replica in writes per second.
    async fn rate(&mut self, waiting: u32, share: f64, max_age_ms: u64) -> Result<f64> {
        let masters = command_statistics(&mut self.conn)
            .await
            .context("reading command statistics")?;
        let totals = Totals::of(&masters);
        if let Some(before) = self.totals.replace(totals) {
            self.cost = totals.cost_since(before).unwrap_or(self.cost);
        }
        let load = WriteLoad {
            at_ms: now_ms(&mut self.conn).await.context("reading the clock")?,
            waiting: waiting.into(),
            share,
            max_age_ms,
        };
        let loads = exchange(&mut self.conn, &self.replica, load)
            .await
            .context("exchanging loads")?;
        let portion = portion(load.waiting, loads.values().map(|load| load.waiting));
        let masters = f64::from(u32::try_from(masters.len())?);
        Ok(self.write_share * masters * portion / self.cost.as_secs_f64())
    }
}

impl Totals {
    /// Sums the totals of all masters.
    fn of(masters: &[Info]) -> Self {
        let total = |command: &str, field: &str| {
            let values = masters.iter().filter_map(|info| {
                let statistics = info.text(command)?;
                let value = statistics.split(',').find_map(|part| part.strip_prefix(field))?;
                value.parse::<f64>().ok()
            });
            values.sum()
        };
        Self {
            function_us: total("cmdstat_fcall", "usec="),
            writes: total("cmdstat_hset", "calls="),
        }
    }

    /// Returns the time of Redis for a write since `before`; `None` after too few writes.
    fn cost_since(self, before: Self) -> Option<Duration> {
        let writes = self.writes - before.writes;
        let cost_us = (self.function_us - before.function_us) / writes;
        // Negative numbers come after another client has reset the statistics.
        (writes >= MIN_WRITES && cost_us > 0.0)
            .then(|| Duration::from_secs_f64(cost_us / 1e6).clamp(MIN_COST, MAX_COST))
    }
}

/// Returns the portion of the budget of a replica with `own` waiting candles, where `all` has those of every replica. A
/// replica without any keeps a small portion, from which it can begin.
fn portion(own: u64, all: impl Iterator<Item = u64>) -> f64 {
    let weight = |waiting: u64| f64::from(u32::try_from(waiting).unwrap_or(u32::MAX)) + 1.0;
    weight(own) / all.map(weight).sum::<f64>().max(weight(own))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_cost_is_the_time_of_functions_by_the_hashes_that_they_write() {
        let text = |us: u32, calls: u32| {
            Info::parse(&format!(
                "# Commandstats\r\ncmdstat_hset:calls={calls},usec=7\r\ncmdstat_fcall:calls=3,usec={us},x=1\r\n"
            ))
        };
        let before = Totals::of(&[text(1_000, 100), text(500, 100)]);
        let after = Totals::of(&[text(3_000, 400), text(1_500, 300)]);
        assert_eq!(after.cost_since(before), Some(Duration::from_micros(6)));
        assert_eq!(before.cost_since(after), None);
        assert_eq!(before.cost_since(before), None);
    }

    proptest! {
        #[test]
        fn the_portions_of_all_replicas_are_the_whole_budget(waiting in prop::collection::vec(0u64..100_000, 1..20)) {
            let portions: Vec<f64> = waiting.iter().map(|own| portion(*own, waiting.iter().copied())).collect();
            prop_assert!((portions.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert!(portions.iter().all(|portion| *portion > 0.0));
            // More waiting candles never give less.
            let mut by_waiting: Vec<_> = waiting.iter().zip(&portions).collect();
            by_waiting.sort_by_key(|(waiting, _)| **waiting);
            prop_assert!(by_waiting.is_sorted_by(|a, b| a.1 <= b.1));
        }
    }
}
