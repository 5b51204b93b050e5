//! Generates ticks by a seeded random walk. Pure: the same plan gives the same ticks.
//!
//! Trades come in bursts of one symbol, several in the same microsecond.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use storage_core::domain::entry::Fields;
use storage_core::domain::tick::Side;
use storage_core::domain::time::duration_us;
use storage_core::redis::codec::ticks::entry_fields;

use crate::market::{Market, rounded};
use crate::outgoing::OutgoingTick;

/// Parameters of the generated ticks.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Number of symbols.
    pub(crate) symbols: u16,
    /// Mean number of ticks per second of event time, of all symbols together.
    pub(crate) rate: f64,
    pub(crate) limit: Limit,
    pub(crate) seed: u64,
    /// Event time at the start, in µs since 1970.
    pub(crate) start_us: i64,
    /// Shares of faulty ticks.
    pub(crate) shares: Shares,
    /// Maximum lateness of late ticks.
    pub(crate) lateness: Duration,
}

/// Limit at which generating ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    /// Number of ticks.
    Ticks(u64),
    /// Duration in event time.
    Duration(Duration),
}

impl Limit {
    /// Returns the expected duration in event time at `rate`, in µs.
    pub(crate) fn expected_us(self, rate: f64) -> i64 {
        match self {
            Self::Ticks(ticks) => rounded(Duration::from_secs(ticks).as_secs_f64() * 1e6 / rate),
            Self::Duration(duration) => duration_us(duration),
        }
    }

    /// Returns the expected number of ticks at `rate`.
    pub(crate) fn expected_ticks(self, rate: f64) -> u64 {
        match self {
            Self::Ticks(ticks) => ticks,
            Self::Duration(duration) => rounded(duration.as_secs_f64() * rate).unsigned_abs(),
        }
    }
}

/// Shares of the ticks that are late, repeated or invalid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    late: f64,
    duplicate: f64,
    invalid: f64,
}

impl Shares {
    /// Creates shares from 0 to 1 whose sum is at most 1.
    ///
    /// # Errors
    /// The rule, if the shares violate it.
    pub(crate) fn new(late: f64, duplicate: f64, invalid: f64) -> Result<Self, &'static str> {
        let shares = [late, duplicate, invalid];
        if shares.iter().all(|share| (0.0..=1.0).contains(share)) && shares.iter().sum::<f64>() <= 1.0 {
            Ok(Self {
                late,
                duplicate,
                invalid,
            })
        } else {
            Err("--late, --duplicate and --invalid must be from 0 to 1 each, and at most 1 together")
        }
    }
}

/// Kind of a generated tick.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    Late,
    Duplicate,
    Invalid,
}

/// Fields of invalid ticks with their invalid values; `None` is a missing field. The time in the year 2100 is too far
/// in the future.
const FAULTS: [(&str, Option<&str>); 9] = [
    ("price", Some("-1")),
    ("price", Some("NaN")),
    ("qty", Some("0")),
    ("qty", None),
    ("symbol", Some("")),
    ("symbol", Some("A:B")),
    ("ts_us", Some("4102444800000000")),
    ("ts_us", Some("soon")),
    ("ts_us", Some("1700000000123")),
];

/// Probability that a burst continues after each tick.
const BURST: f64 = 0.35;
/// Number of previous ticks from which a duplicate is chosen.
const REPEATABLE: usize = 64;

/// Iterator over the ticks of a plan, in the order of publication.
pub(crate) struct Generator {
    plan: Plan,
    rng: Xoshiro256PlusPlus,
    markets: Vec<Market>,
    /// Cumulative weights of the markets.
    popularity: Vec<f64>,
    generated: u64,
    /// Event time since the start.
    passed_us: f64,
    current: usize,
    side: Side,
    recent: VecDeque<OutgoingTick>,
    faults: u64,
}

impl Generator {
    pub(crate) fn new(plan: Plan) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(plan.seed);
        let markets: Vec<Market> = (1..=plan.symbols)
            .filter_map(|number| Market::new(number, plan.start_us, &mut rng))
            .collect();
        // Zipf's law: the second symbol is traded half as often as the first one, the third symbol a third as often.
        let weights = (1..=plan.symbols).map(|number| 1.0 / f64::from(number));
        let popularity: Vec<f64> = weights
            .scan(0.0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        let recent = VecDeque::with_capacity(REPEATABLE);
        Self {
            plan,
            rng,
            markets,
            popularity,
            generated: 0,
            passed_us: 0.0,
            current: 0,
            side: Side::Buy,
            recent,
            faults: 0,
        }
    }

    fn now_us(&self) -> i64 {
        self.plan.start_us.saturating_add(rounded(self.passed_us))
    }

    fn is_over(&self) -> bool {
        match self.plan.limit {
            Limit::Ticks(ticks) => self.generated >= ticks,
            Limit::Duration(duration) => self.passed_us >= duration.as_secs_f64() * 1e6,
        }
    }

    /// Starts a burst: advances the event time and chooses a symbol.
    fn start_burst(&mut self) {
        let mean_us = 1e6 / self.plan.rate / (1.0 - BURST);
        self.passed_us -= mean_us * (1.0 - self.rng.random::<f64>()).ln();
        let chosen = self.rng.random::<f64>() * self.popularity.last().copied().unwrap_or_default();
        self.current = self
            .popularity
            .partition_point(|sum| *sum <= chosen)
            .min(self.markets.len() - 1);
        self.side = if self.rng.random() { Side::Buy } else { Side::Sell };
        self.markets[self.current].walk(&mut self.rng);
    }

    fn kind(&mut self) -> Kind {
        let Shares {
            late,
            duplicate,
            invalid,
        } = self.plan.shares;
        let drawn = self.rng.random::<f64>();
        if drawn < late {
            Kind::Late
        } else if drawn < late + duplicate {
            Kind::Duplicate
        } else if drawn < late + duplicate + invalid {
            Kind::Invalid
        } else {
            Kind::Plain
        }
    }

    fn generate(&mut self, kind: Kind) -> OutgoingTick {
        let now_us = self.now_us();
        if kind == Kind::Duplicate && !self.recent.is_empty() {
            let chosen = self.rng.random_range(0..self.recent.len());
            return OutgoingTick {
                at_us: now_us,
                ..self.recent[chosen].clone()
            };
        }
        let ts_us = if kind == Kind::Late {
            self.late_us(now_us)
        } else {
            now_us
        };
        let tick = self.markets[self.current].trade(ts_us, now_us, self.side, &mut self.rng);
        let mut fields = entry_fields(&tick);
        if kind == Kind::Invalid {
            self.invalidate(&mut fields);
        }
        let outgoing = OutgoingTick {
            symbol: tick.symbol,
            at_us: now_us,
            fields,
        };
        if kind != Kind::Invalid && self.plan.shares.duplicate > 0.0 {
            self.recent.truncate(REPEATABLE - 1);
            self.recent.push_front(outgoing.clone());
        }
        outgoing
    }

    /// Returns an event time before `now_us`, but not before the start.
    fn late_us(&mut self, now_us: i64) -> i64 {
        let max_us = duration_us(self.plan.lateness).max(1);
        (now_us - self.rng.random_range(1..=max_us)).max(self.plan.start_us)
    }

    fn invalidate(&mut self, fields: &mut Fields) {
        let index = self.faults % u64::try_from(FAULTS.len()).unwrap_or(1);
        let (name, value) = FAULTS[usize::try_from(index).unwrap_or_default()];
        self.faults += 1;
        fields.retain(|(field, _)| *field != name);
        fields.extend(value.map(|value| (name, value.to_owned())));
    }
}

impl Iterator for Generator {
    type Item = OutgoingTick;

    fn next(&mut self) -> Option<OutgoingTick> {
        if self.generated == 0 || !self.rng.random_bool(BURST) {
            self.start_burst();
        }
        if self.is_over() {
            return None;
        }
        let kind = self.kind();
        self.generated += 1;
        Some(self.generate(kind))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use storage_core::domain::entry::Entry;
    use storage_core::domain::event_time::check_unit;
    use storage_core::domain::prices::Prices;
    use storage_core::domain::stream_id::StreamId;
    use storage_core::domain::tick::{AcceptedTick, Tick};

    use super::*;

    const START_US: i64 = 1_700_000_000_000_000;

    fn plan(ticks: u64, shares: (f64, f64, f64)) -> Plan {
        Plan {
            symbols: 5,
            rate: 1_000.0,
            limit: Limit::Ticks(ticks),
            seed: 7,
            start_us: START_US,
            shares: Shares::new(shares.0, shares.1, shares.2).unwrap(),
            lateness: Duration::from_secs(30),
        }
    }

    /// Decodes a tick as the pipeline does at the time of publication.
    fn decode(outgoing: &OutgoingTick) -> Option<Tick> {
        let id = StreamId::at_ms(u64::try_from(outgoing.at_us / 1_000).unwrap());
        let entry = Entry::new(id, outgoing.fields.clone());
        let accepted = AcceptedTick::from_entry(&entry, Duration::from_secs(5)).ok()?;
        let is_accepted = check_unit(accepted.tick.ts_us, false)
            .and_then(|()| accepted.tick.check_price(Prices::Positive))
            .is_ok();
        is_accepted.then_some(accepted.tick)
    }

    fn share(count: usize, of: usize) -> f64 {
        f64::from(u32::try_from(count).unwrap()) / f64::from(u32::try_from(of).unwrap())
    }

    #[test]
    fn the_mean_rate_is_the_requested_one() {
        for rate in [0.5, 1_000.0, 1_000_000.0] {
            let ticks: Vec<_> = Generator::new(Plan {
                rate,
                ..plan(50_000, (0.0, 0.0, 0.0))
            })
            .collect();
            let took_s = Duration::from_micros((ticks.last().unwrap().at_us - START_US).unsigned_abs()).as_secs_f64();
            let ratio = 50_000.0 / took_s / rate;
            assert!((0.95..1.05).contains(&ratio), "{rate}: {ratio}");
        }
    }

    #[test]
    fn a_duration_ends_the_ticks() {
        let limit = Limit::Duration(Duration::from_secs(10));
        let ticks: Vec<_> = Generator::new(Plan {
            limit,
            ..plan(0, (0.1, 0.1, 0.1))
        })
        .collect();
        assert!((9_000..11_000).contains(&ticks.len()), "{}", ticks.len());
        assert!(ticks.iter().all(|tick| tick.at_us < START_US + 10_000_000));
    }

    #[test]
    fn the_shares_are_the_requested_ones() {
        let ticks: Vec<_> = Generator::new(plan(20_000, (0.1, 0.05, 0.02))).collect();
        let valid: Vec<_> = ticks.iter().filter_map(|out| Some((out, decode(out)?))).collect();
        assert!((0.015..0.025).contains(&share(ticks.len() - valid.len(), ticks.len())));
        let ids: HashSet<_> = valid
            .iter()
            .map(|(_, tick)| (tick.symbol.clone(), tick.trade_id.clone()))
            .collect();
        assert!((0.04..0.06).contains(&share(valid.len() - ids.len(), ticks.len())));
        // A duplicate is late only by the time since the tick that it repeats, which is short.
        let late = valid
            .iter()
            .filter(|(out, tick)| out.at_us - tick.ts_us > 1_000_000)
            .count();
        assert!((0.08..0.11).contains(&share(late, ticks.len())));
    }

    #[test]
    fn every_invalid_tick_is_rejected() {
        let ticks: Vec<_> = Generator::new(plan(100, (0.0, 0.0, 1.0))).collect();
        assert_eq!(ticks.len(), 100);
        assert!(ticks.iter().all(|tick| decode(tick).is_none()));
    }

    #[test]
    fn symbols_and_prices_are_distributed_as_in_a_market() {
        let ticks: Vec<Tick> = Generator::new(plan(20_000, (0.0, 0.0, 0.0)))
            .map(|out| decode(&out).unwrap())
            .collect();
        let same_time = ticks.windows(2).filter(|pair| pair[0].ts_us == pair[1].ts_us).count();
        assert!(share(same_time, ticks.len()) > 0.2);
        let of = |symbol: &str| {
            ticks
                .iter()
                .filter(|tick| tick.symbol.as_str() == symbol)
                .collect::<Vec<_>>()
        };
        assert!(of("SIM0001").len() > 3 * of("SIM0005").len());
        let prices: Vec<f64> = of("SIM0001").iter().map(|tick| tick.price).collect();
        let (low, high) = prices
            .iter()
            .fold((f64::MAX, 0.0_f64), |(low, high), p| (low.min(*p), high.max(*p)));
        assert!(high / low > 1.001 && high / low < 2.0, "{low} to {high}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn the_same_plan_gives_the_same_ticks(seed: u64, symbols in 1u16..50) {
            let plan = Plan { seed, symbols, ..plan(500, (0.1, 0.1, 0.1)) };
            let other = Plan { seed: seed.wrapping_add(1), ..plan.clone() };
            prop_assert!(Generator::new(plan.clone()).eq(Generator::new(plan.clone())));
            prop_assert!(!Generator::new(plan).eq(Generator::new(other)));
        }

        #[test]
        fn ticks_are_valid_and_in_order_with_gapless_ids(seed: u64, symbols in 1u16..20, late in 0.0..1.0) {
            let ticks: Vec<_> = Generator::new(Plan { seed, symbols, ..plan(500, (late, 0.0, 0.0)) }).collect();
            prop_assert_eq!(ticks.len(), 500);
            prop_assert!(ticks.windows(2).all(|pair| pair[0].at_us <= pair[1].at_us));
            let mut next_ids = std::collections::HashMap::new();
            for out in &ticks {
                let tick = decode(out);
                prop_assert!(tick.is_some(), "{:?}", out);
                let tick = tick.unwrap();
                prop_assert!((START_US..=out.at_us).contains(&tick.ts_us));
                let next = next_ids.entry(tick.symbol.clone()).or_insert(START_US);
                prop_assert_eq!(tick.trade_id, Some(next.to_string().into()));
                *next += 1;
            }
        }
    }
}
