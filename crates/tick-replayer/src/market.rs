//! A simulated market of one symbol.
//!
//! The price moves on a grid around its mean. Volumes drift, so that large trades come in clusters, and follow the time
//! of day.

use std::f64::consts::{PI, TAU};
use std::time::Duration;

use rand::RngExt;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::{Side, Tick};

/// State of the market.
pub(crate) struct Market {
    symbol: Symbol,
    price_decimals: u8,
    /// Price in steps of `10^-price_decimals`.
    steps: i64,
    mean_steps: i64,
    qty_decimals: u8,
    /// Median quantity of a trade, in steps of `10^-qty_decimals`.
    median_qty: f64,
    /// Logarithm of the current factor of quantities.
    drift: f64,
    next_id: u64,
}

impl Market {
    pub(crate) fn new(number: u16, start_us: i64, rng: &mut impl RngExt) -> Option<Self> {
        let steps = rng.random_range(5_000..50_000);
        Some(Self {
            symbol: format!("SIM{number:04}").parse().ok()?,
            price_decimals: rng.random_range(0..=8),
            steps,
            mean_steps: steps,
            qty_decimals: rng.random_range(0..=6),
            median_qty: rng.random_range(10.0..1_000.0),
            drift: 0.0,
            next_id: start_us.unsigned_abs(),
        })
    }

    /// Moves the price and the drift of the quantities between two bursts.
    pub(crate) fn walk(&mut self, rng: &mut impl RngExt) {
        let reversion = (self.mean_steps - self.steps) / 5_000;
        self.steps = (self.steps + reversion + rounded(2.0 * normal(rng))).max(1);
        self.drift = 0.98 * self.drift + 0.2 * normal(rng);
    }

    /// Returns a trade at `ts_us` that is published at `now_us`. A buyer pays up to one step more, a seller gets up to
    /// one step less.
    pub(crate) fn trade(&mut self, ts_us: i64, now_us: i64, side: Side, rng: &mut impl RngExt) -> Tick {
        let step = rng.random_range(0..=1);
        self.steps = match side {
            Side::Buy => self.steps + step,
            Side::Sell => (self.steps - step).max(1),
        };
        let size = self.median_qty * (self.drift + 0.8 * normal(rng)).exp() * time_of_day(now_us);
        let id = self.next_id;
        self.next_id += 1;
        Tick {
            symbol: self.symbol.clone(),
            ts_us,
            price: Decimal::from_lots(self.steps.into(), self.price_decimals).to_f64(),
            qty: Decimal::from_lots(rounded(size).max(1).into(), self.qty_decimals),
            trade_id: Some(id.to_string().into()),
            side: Some(side),
        }
    }
}

/// Returns the factor of quantities at a time of the day: largest at 15:00 UTC, smallest at 03:00.
fn time_of_day(ts_us: i64) -> f64 {
    const DAY_US: i64 = 24 * 3_600 * 1_000_000;
    let day = Duration::from_micros(ts_us.rem_euclid(DAY_US).unsigned_abs()).as_secs_f64() / 86_400.0;
    1.0 + 0.6 * (TAU * day - 1.25 * PI).cos()
}

/// Returns a normally distributed number (Box–Muller).
fn normal(rng: &mut impl RngExt) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (TAU * rng.random::<f64>()).cos()
}

/// Returns the nearest integer.
#[allow(clippy::cast_possible_truncation, reason = "the conversion saturates")]
pub(crate) fn rounded(x: f64) -> i64 {
    x.round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trades_are_largest_in_the_afternoon_and_smallest_at_night() {
        assert!(time_of_day(15 * 3_600_000_000) > 1.59 && time_of_day(3 * 3_600_000_000) < 0.41);
    }
}
