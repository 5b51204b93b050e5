//! Made-up ticks: a seeded random walk that looks like a market. Pure: the same plan gives the same ticks.
//!
//! Trades come in bursts of one symbol, several in the same microsecond. A burst moves its symbol's price by steps of a
//! grid, and takes its volume from a size that drifts (clusters) and follows the time of day.

use std::collections::VecDeque;
use std::f64::consts::{PI, TAU};
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use storage_core::domain::decimal::Decimal;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::{Side, Tick};
use storage_core::redis::codec::ticks::entry_fields;
use storage_core::redis::stream::Fields;

use crate::outgoing::Outgoing;

/// What to make.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Number of symbols.
    pub(crate) symbols: u16,
    /// Mean number of ticks per second of event time, of all symbols together.
    pub(crate) rate: f64,
    /// Where it ends.
    pub(crate) limit: Limit,
    /// Seed of the random numbers.
    pub(crate) seed: u64,
    /// Event time at the start, in µs since 1970.
    pub(crate) start_us: i64,
    /// Shares of faulty ticks.
    pub(crate) shares: Shares,
    /// How late the late ticks are at most.
    pub(crate) lateness: Duration,
}

/// Where the ticks end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Limit {
    /// After so many.
    Ticks(u64),
    /// After so much event time.
    Duration(Duration),
}

impl Limit {
    /// About how much event time passes at `rate`, in µs.
    pub(crate) fn expected_us(self, rate: f64) -> i64 {
        match self {
            Self::Ticks(ticks) => rounded(Duration::from_secs(ticks).as_secs_f64() * 1e6 / rate),
            Self::Duration(duration) => i64::try_from(duration.as_micros()).unwrap_or(i64::MAX),
        }
    }

    /// About how many ticks come at `rate`.
    pub(crate) fn expected_ticks(self, rate: f64) -> u64 {
        match self {
            Self::Ticks(ticks) => ticks,
            Self::Duration(duration) => rounded(duration.as_secs_f64() * rate).unsigned_abs(),
        }
    }
}

/// Which shares of the ticks are late, repeated or invalid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    late: f64,
    duplicate: f64,
    invalid: f64,
}

impl Shares {
    /// Shares from 0 to 1, and together no more than 1.
    ///
    /// # Errors
    /// When they aren't.
    pub(crate) fn new(late: f64, duplicate: f64, invalid: f64) -> Result<Self, &'static str> {
        let shares = [late, duplicate, invalid];
        if shares.iter().all(|share| (0.0..=1.0).contains(share)) && shares.iter().sum::<f64>() <= 1.0 {
            Ok(Self {
                late,
                duplicate,
                invalid,
            })
        } else {
            Err("--late, --duplicate and --invalid are shares from 0 to 1, and together at most 1")
        }
    }
}

/// What to do with a tick.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Plain,
    Late,
    Duplicate,
    Invalid,
}

/// What invalid ticks have in place of what they should; `None` is a missing field. Whenever they come, the pipeline
/// refuses them: the time is in the year 2100.
const FAULTS: [(&str, Option<&str>); 9] = [
    ("price", Some("-1")),
    ("price", Some("NaN")),
    ("qty", Some("0")),
    ("qty", None),
    ("symbol", Some("")),
    ("symbol", Some("A:B")),
    ("ts_us", Some("4102444800000000")),
    ("ts_us", Some("soon")),
    ("side", Some("up")),
];

/// How likely a burst goes on after each tick.
const BURST: f64 = 0.35;
/// A duplicate repeats one of so many ticks before it.
const REPEATABLE: usize = 64;

/// The ticks of a plan, in the order in which they go out.
pub(crate) struct Generator {
    plan: Plan,
    rng: Xoshiro256PlusPlus,
    markets: Vec<Market>,
    /// Each market's share of the bursts, those before it included.
    popularity: Vec<f64>,
    made: u64,
    /// Event time since the start, in µs.
    passed_us: f64,
    current: usize,
    side: Side,
    recent: VecDeque<Outgoing>,
    faults: u64,
}

impl Generator {
    /// The ticks of `plan`.
    pub(crate) fn new(plan: Plan) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(plan.seed);
        let markets: Vec<Market> = (1..=plan.symbols)
            .filter_map(|number| Market::new(number, plan.start_us, &mut rng))
            .collect();
        // As in the world: the second is traded half as much as the first, the third a third of it.
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
            made: 0,
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
            Limit::Ticks(ticks) => self.made >= ticks,
            Limit::Duration(duration) => self.passed_us >= duration.as_secs_f64() * 1e6,
        }
    }

    /// Begins a burst: time passes, and another symbol may be traded.
    fn begin_burst(&mut self) {
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

    fn make(&mut self, kind: Kind) -> Outgoing {
        let now_us = self.now_us();
        if kind == Kind::Duplicate && !self.recent.is_empty() {
            let chosen = self.rng.random_range(0..self.recent.len());
            return Outgoing {
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
            self.spoil(&mut fields);
        }
        let outgoing = Outgoing {
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

    /// An event time before `now_us`, but not before the start.
    fn late_us(&mut self, now_us: i64) -> i64 {
        let most_us = i64::try_from(self.plan.lateness.as_micros()).unwrap_or(i64::MAX).max(1);
        (now_us - self.rng.random_range(1..=most_us)).max(self.plan.start_us)
    }

    fn spoil(&mut self, fields: &mut Fields) {
        let index = self.faults % u64::try_from(FAULTS.len()).unwrap_or(1);
        let (name, value) = FAULTS[usize::try_from(index).unwrap_or_default()];
        self.faults += 1;
        fields.retain(|(field, _)| *field != name);
        fields.extend(value.map(|value| (name, value.to_owned())));
    }
}

impl Iterator for Generator {
    type Item = Outgoing;

    fn next(&mut self) -> Option<Outgoing> {
        if self.made == 0 || !self.rng.random_bool(BURST) {
            self.begin_burst();
        }
        if self.is_over() {
            return None;
        }
        let kind = self.kind();
        self.made += 1;
        Some(self.make(kind))
    }
}

/// A symbol's state.
struct Market {
    symbol: Symbol,
    price_decimals: u8,
    /// The price, and where it tends to, in steps of `10^-price_decimals`.
    steps: i64,
    home: i64,
    qty_decimals: u8,
    /// The usual size of a trade, in steps of `10^-qty_decimals`.
    usual_qty: f64,
    /// How much larger trades are at present, as a logarithm.
    cluster: f64,
    next_id: u64,
}

impl Market {
    fn new(number: u16, start_us: i64, rng: &mut impl RngExt) -> Option<Self> {
        let steps = rng.random_range(5_000..50_000);
        Some(Self {
            symbol: format!("SIM{number:04}").parse().ok()?,
            price_decimals: rng.random_range(0..=8),
            steps,
            home: steps,
            qty_decimals: rng.random_range(0..=6),
            usual_qty: rng.random_range(10.0..1_000.0),
            cluster: 0.0,
            next_id: start_us.unsigned_abs(),
        })
    }

    /// Between two bursts: the price wanders about its home, the volume drifts.
    fn walk(&mut self, rng: &mut impl RngExt) {
        let homesick = (self.home - self.steps) / 5_000;
        self.steps = (self.steps + homesick + rounded(2.0 * normal(rng))).max(1);
        self.cluster = 0.98 * self.cluster + 0.2 * normal(rng);
    }

    /// A trade at `ts_us`, seen at `now_us`: buyers pay up to a step more, sellers get up to a step less.
    fn trade(&mut self, ts_us: i64, now_us: i64, side: Side, rng: &mut impl RngExt) -> Tick {
        let step = rng.random_range(0..=1);
        self.steps = match side {
            Side::Buy => self.steps + step,
            Side::Sell => (self.steps - step).max(1),
        };
        let size = self.usual_qty * (self.cluster + 0.8 * normal(rng)).exp() * time_of_day(now_us);
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

/// How much larger trades are at this time of the day: most at 15:00 UTC, least at 03:00.
fn time_of_day(ts_us: i64) -> f64 {
    const DAY_US: i64 = 24 * 3_600 * 1_000_000;
    let day = Duration::from_micros(ts_us.rem_euclid(DAY_US).unsigned_abs()).as_secs_f64() / 86_400.0;
    1.0 + 0.6 * (TAU * day - 1.25 * PI).cos()
}

/// A normally distributed number (Box–Muller).
fn normal(rng: &mut impl RngExt) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (TAU * rng.random::<f64>()).cos()
}

/// The nearest integer; the conversion saturates.
#[allow(clippy::cast_possible_truncation)]
fn rounded(x: f64) -> i64 {
    x.round() as i64
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;
    use storage_core::domain::entry::Entry;
    use storage_core::domain::stream_id::StreamId;
    use storage_core::domain::tick::AcceptedTick;

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

    /// What the pipeline makes of it, were it accepted when it goes out.
    fn judge(outgoing: &Outgoing) -> Option<Tick> {
        let id = StreamId::at_ms(u64::try_from(outgoing.at_us / 1_000).unwrap());
        let entry = Entry::new(id, outgoing.fields.clone());
        AcceptedTick::from_entry(&entry, Duration::from_secs(5))
            .ok()
            .map(|accepted| accepted.tick)
    }

    fn share(count: usize, of: usize) -> f64 {
        f64::from(u32::try_from(count).unwrap()) / f64::from(u32::try_from(of).unwrap())
    }

    #[test]
    fn the_rate_is_kept_on_average() {
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
    fn a_duration_ends_it() {
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
    fn shares_are_met() {
        let ticks: Vec<_> = Generator::new(plan(20_000, (0.1, 0.05, 0.02))).collect();
        let valid: Vec<_> = ticks.iter().filter_map(|out| Some((out, judge(out)?))).collect();
        assert!((0.015..0.025).contains(&share(ticks.len() - valid.len(), ticks.len())));
        let ids: HashSet<_> = valid
            .iter()
            .map(|(_, tick)| (tick.symbol.clone(), tick.trade_id.clone()))
            .collect();
        assert!((0.04..0.06).contains(&share(valid.len() - ids.len(), ticks.len())));
        // Duplicates of what came a moment before are no later than that moment.
        let late = valid
            .iter()
            .filter(|(out, tick)| out.at_us - tick.ts_us > 1_000_000)
            .count();
        assert!((0.08..0.11).contains(&share(late, ticks.len())));
    }

    #[test]
    fn every_fault_is_refused() {
        let ticks: Vec<_> = Generator::new(plan(100, (0.0, 0.0, 1.0))).collect();
        assert_eq!(ticks.len(), 100);
        assert!(ticks.iter().all(|tick| judge(tick).is_none()));
    }

    #[test]
    fn it_looks_like_a_market() {
        let ticks: Vec<Tick> = Generator::new(plan(20_000, (0.0, 0.0, 0.0)))
            .map(|out| judge(&out).unwrap())
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
        assert!(time_of_day(15 * 3_600_000_000) > 1.59 && time_of_day(3 * 3_600_000_000) < 0.41);
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
        fn ticks_that_are_not_spoilt_are_valid_in_order_and_numbered_without_gaps(seed: u64, symbols in 1u16..20, late in 0.0..1.0) {
            let ticks: Vec<_> = Generator::new(Plan { seed, symbols, ..plan(500, (late, 0.0, 0.0)) }).collect();
            prop_assert_eq!(ticks.len(), 500);
            prop_assert!(ticks.windows(2).all(|pair| pair[0].at_us <= pair[1].at_us));
            let mut next_ids = std::collections::HashMap::new();
            for out in &ticks {
                let tick = judge(out);
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
