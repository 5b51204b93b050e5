//! Sets the rate at which this replica writes open candles, so that those of all replicas cost Redis the configured
//! share.
//!
//! The cost of a write is measured: the time of Redis for function calls by the number of hashes that they write. The
//! replicas exchange what they have written and how many candles wait, and divide the budget in proportion to the sum,
//! so that candles get equally old on all replicas, and a replica alone with its load gets most of it.

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
/// Part of the budget that is divided equally among the replicas.
const EQUAL_PART: f64 = 0.25;
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
        let cost_s = self.cost.as_secs_f64();
        let demand =
            |load: &WriteLoad| load.share / cost_s + f64::from(u32::try_from(load.waiting).unwrap_or(u32::MAX));
        let demands: Vec<f64> = loads.values().map(demand).collect();
        let portion = portion(demand(&load), &demands);
        let masters = f64::from(u32::try_from(masters.len())?);
        Ok(self.write_share * masters * portion / cost_s)
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

/// Returns the portion of the budget of a replica that could have used `own` writes in the last second, where `all` has
/// the demand of every replica. A quarter of the budget is divided equally, so that a replica can begin.
fn portion(own: f64, all: &[f64]) -> f64 {
    let replicas = f64::from(u32::try_from(all.len().max(1)).unwrap_or(u32::MAX));
    let sum = all.iter().sum::<f64>().max(own);
    let by_demand = if sum > 0.0 { own / sum } else { 1.0 / replicas };
    (1.0 - EQUAL_PART) * by_demand + EQUAL_PART / replicas
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
        fn the_portions_of_all_replicas_are_the_whole_budget(demands in prop::collection::vec(0f64..100_000.0, 1..20)) {
            let portions: Vec<f64> = demands.iter().map(|own| portion(*own, &demands)).collect();
            prop_assert!((portions.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            let least = EQUAL_PART / demands.len() as f64;
            prop_assert!(portions.iter().all(|portion| *portion >= least));
            // A higher demand never gives less.
            let mut by_demand: Vec<_> = demands.iter().zip(&portions).collect();
            by_demand.sort_by(|a, b| a.0.total_cmp(b.0));
            prop_assert!(by_demand.is_sorted_by(|a, b| a.1 <= b.1));
        }

        /// Each second a replica writes what its portion allows, and the rest of its candles wait.
        #[test]
        fn a_demand_below_the_budget_is_met_on_every_replica(
            shares in prop::collection::vec(1f64..10.0, 2..8),
            rate in 1_000f64..100_000.0,
        ) {
            let sum: f64 = shares.iter().sum();
            // Half of the budget divided in proportion to the shares.
            let arriving: Vec<f64> = shares.iter().map(|share| 0.5 * rate * share / sum).collect();
            let mut waiting = vec![0.0; shares.len()];
            let mut demands = waiting.clone();
            for second in 0..60 {
                let portions: Vec<f64> = demands.iter().map(|own| portion(*own, &demands)).collect();
                for replica in 0..shares.len() {
                    let wanted: f64 = waiting[replica] + arriving[replica];
                    let written = wanted.min(portions[replica] * rate);
                    waiting[replica] = wanted - written;
                    demands[replica] = written + waiting[replica];
                }
                prop_assert!(second < 20 || waiting.iter().all(|waiting| *waiting < 1e-6), "{waiting:?}");
            }
        }
    }
}
