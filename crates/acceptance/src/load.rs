//! A load that is generated from a seed: ticks in order, out of order and late, duplicates in several resolutions of
//! time, corrections, busts, conflicts and bad entries, each with its expected disposition. The trade IDs of some
//! symbols begin again. The feed sends heartbeats; it pauses because the market is halted, or because it is
//! disconnected. The same plan results in the same entries.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use crate::oracle::{DECIMALS, Kind, Trade, micros};
use crate::producer::{self, Fields};
use feed::{Feed, Heartbeat};
use flaw::Flaw;

pub mod feed;
mod flaw;

/// Name of the field that identifies a bad entry among the dead letters.
pub const MARK: &str = "mark";

/// Maximum age of ticks that are out of order, in event time behind their symbol's newest tick: within the amend
/// window.
const OUT_OF_ORDER: Duration = Duration::from_secs(8 * 60);
/// Minimum age of late ticks: beyond the amend window, so that their minutes are repaired.
const LATE_FROM: Duration = Duration::from_secs(14 * 60);
/// Maximum age of late ticks.
const LATE_TO: Duration = Duration::from_secs(3 * 60 * 60);
/// Number of trades after which the trade IDs of some symbols begin again.
const RESTART: u64 = 200;
/// Number of recent entries from which a duplicate or an amended trade is chosen.
const MAX_DISTANCE: usize = 5_000;
/// Event time of a pause.
const PAUSE: Duration = Duration::from_secs(25 * 60);

/// Parameters of a load.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Seed of the random numbers.
    pub seed: u64,
    /// Number of entries, including bad and repeated ones.
    pub entries: usize,
    /// Number of symbols; the first is the busiest.
    pub symbols: usize,
    /// Number of partitions of the streams.
    pub partitions: u16,
    /// RFC 3339: event time at the start, in the past.
    pub start: &'static str,
    /// Event time from the first to the last entry.
    pub span: Duration,
    /// Share of entries that repeat an earlier one.
    pub duplicates: f64,
    /// Share of ticks that are behind their symbol's newest, within the amend window.
    pub out_of_order: f64,
    /// Share of ticks that are behind by more than the amend window.
    pub late: f64,
    /// Share of bad entries.
    pub bad: f64,
    /// Share of entries that correct an earlier one.
    pub corrections: f64,
    /// Share of entries that bust an earlier one.
    pub busts: f64,
    /// Share of entries that have the identity of an earlier one and another quantity.
    pub conflicts: f64,
    /// Share of ticks with the same event time as their symbol's previous tick: the order of arrival decides the close.
    pub equal_times: f64,
    /// Number of pauses of the feed. It is disconnected in every second one.
    pub pauses: usize,
}

impl Plan {
    /// Creates a plan of `entries` entries over six hours of event time, with every disposition.
    pub fn new(seed: u64, entries: usize) -> Self {
        Self {
            seed,
            entries,
            symbols: 8,
            partitions: crate::producer::PARTITIONS,
            start: "2024-03-01T00:00:00Z",
            span: Duration::from_secs(6 * 60 * 60),
            duplicates: 0.05,
            out_of_order: 0.05,
            late: 0.005,
            bad: 0.005,
            corrections: 0.002,
            busts: 0.001,
            conflicts: 0.001,
            equal_times: 0.03,
            pauses: 0,
        }
    }
}

/// Expected disposition of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It is in its candles, unless a later entry busts it.
    Counted,
    /// It corrects or busts an earlier entry.
    Amendment,
    /// It is the same trade as an earlier entry and changes nothing.
    Duplicate,
    /// It is a dead letter.
    Dead(Flaw),
}

/// An entry of the load.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The partition whose stream it is sent to.
    pub partition: u16,
    /// The trade; of a bad entry, the valid trade that it was made from.
    pub trade: Trade,
    /// Its expected disposition.
    pub disposition: Disposition,
}

impl Entry {
    /// Returns the fields that the producer sends.
    pub fn fields(&self) -> Fields {
        let mut fields = producer::fields(&self.trade);
        if let Disposition::Dead(flaw) = self.disposition {
            flaw.apply(&mut fields);
            fields.push((MARK.to_owned(), self.mark()));
        }
        fields
    }

    /// Returns the text that identifies a bad entry.
    pub fn mark(&self) -> String {
        let Trade {
            symbol, id, qty, ts_us, ..
        } = &self.trade;
        format!("{symbol} {} {ts_us} {qty}", id.as_deref().unwrap_or_default())
    }
}

/// Entries in the order in which they are sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Load {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The heartbeats of their feed.
    pub heartbeats: Vec<Heartbeat>,
}

impl Load {
    /// Generates the load of `plan`.
    pub fn new(plan: &Plan) -> Self {
        let mut generator = Generator::new(plan);
        let symbols: Vec<_> = generator.markets.iter().map(|market| market.symbol.clone()).collect();
        let mut feed = Feed::new(&symbols, generator.start_us);
        let between = plan.entries / (plan.pauses + 1);
        let mut entries = Vec::with_capacity(plan.entries);
        for number in 0..plan.entries {
            feed.run(generator.now_us, number);
            if number > 0 && plan.pauses > 0 && number.is_multiple_of(between) {
                generator.now_us += us(PAUSE);
                if (number / between).is_multiple_of(2) {
                    feed.disconnect(generator.now_us, number);
                }
            }
            entries.push(generator.next());
        }
        Self {
            entries,
            heartbeats: feed.heartbeats,
        }
    }

    /// Returns the trades that must be counted and their amendments, in order of arrival.
    pub fn trades(&self) -> Vec<Trade> {
        let counts = [Disposition::Counted, Disposition::Amendment];
        let valid = self.entries.iter().filter(|entry| counts.contains(&entry.disposition));
        valid.map(|entry| entry.trade.clone()).collect()
    }

    /// Returns the marks of the entries that become dead letters, each with a part of its reason.
    pub fn dead_letters(&self) -> BTreeMap<String, &'static str> {
        let dead = self.entries.iter().filter_map(|entry| match entry.disposition {
            Disposition::Dead(flaw) => Some((entry.mark(), flaw.reason())),
            _ => None,
        });
        dead.collect()
    }

    /// Returns the number of duplicates.
    pub fn duplicates(&self) -> usize {
        self.entries
            .iter()
            .filter(|entry| entry.disposition == Disposition::Duplicate)
            .count()
    }
}

/// State of a symbol while the load is generated.
struct Market {
    symbol: String,
    partition: u16,
    /// Price in hundredths.
    price: u32,
    newest_us: i64,
    trades: u64,
    /// `true` if trade IDs are text, `false` if they are numbers.
    text_ids: bool,
    /// Number of trades after which the trade IDs begin again.
    ids: u64,
}

struct Generator<'a> {
    plan: &'a Plan,
    rng: Xoshiro256PlusPlus,
    markets: Vec<Market>,
    start_us: i64,
    now_us: i64,
    made: Vec<Trade>,
    /// Number of amendments and conflicts.
    amended: u64,
    /// Identities of the busted trades.
    busted: HashSet<(String, i64, Option<String>)>,
}

fn identity(trade: &Trade) -> (String, i64, Option<String>) {
    (trade.symbol.clone(), trade.ts_us, trade.id.clone())
}

impl<'a> Generator<'a> {
    fn new(plan: &'a Plan) -> Self {
        let start_us = micros(plan.start);
        let market = |number: usize| {
            let symbol = format!("LOAD{number}");
            Market {
                partition: producer::partition(&symbol, plan.partitions),
                symbol,
                price: 10_000,
                newest_us: start_us,
                trades: 0,
                text_ids: number % 4 == 3,
                ids: if number % 4 == 1 { RESTART } else { u64::MAX },
            }
        };
        Self {
            plan,
            rng: Xoshiro256PlusPlus::seed_from_u64(plan.seed),
            markets: (0..plan.symbols).map(market).collect(),
            start_us,
            now_us: start_us,
            made: Vec::new(),
            amended: 0,
            busted: HashSet::new(),
        }
    }

    fn next(&mut self) -> Entry {
        let step_us = us(self.plan.span) / i64::try_from(self.plan.entries).expect("a number of entries").max(1);
        self.now_us += self.rng.random_range(0..=2 * step_us);
        let drawn = self.rng.random::<f64>();
        if drawn < self.plan.duplicates && !self.made.is_empty() {
            return self.repeat();
        }
        let Plan {
            duplicates,
            corrections,
            busts,
            conflicts,
            ..
        } = *self.plan;
        let amended = 1.0 - drawn;
        if amended < corrections + busts + conflicts && !self.made.is_empty() {
            return self.amend(amended < corrections, amended < corrections + busts);
        }
        let market = self.choose();
        let trade = self.trade(market);
        let partition = self.markets[market].partition;
        if drawn >= duplicates && drawn < duplicates + self.plan.bad {
            let flaw = Flaw::ALL[self.rng.random_range(0..Flaw::ALL.len())];
            let elsewhere = u16::from(flaw == Flaw::Partition);
            return Entry {
                partition: (partition + elsewhere) % self.plan.partitions,
                trade,
                disposition: Disposition::Dead(flaw),
            };
        }
        self.made.push(trade.clone());
        Entry {
            partition,
            trade,
            disposition: Disposition::Counted,
        }
    }

    /// Repeats one of the last entries, as it is or as a file has it: with its time in ms and its number with a
    /// fraction.
    fn repeat(&mut self) -> Entry {
        let mut trade = self.recent();
        if self.rng.random_bool(0.3) {
            trade.ts_us -= trade.ts_us % 1_000;
            trade.id = trade.id.map(|id| if id.contains('-') { id } else { format!("{id}.0") });
        }
        Entry {
            partition: producer::partition(&trade.symbol, self.plan.partitions),
            trade,
            disposition: Disposition::Duplicate,
        }
    }

    /// Corrects or busts one of the last entries, or sends it with another quantity. No quantity comes twice.
    fn amend(&mut self, is_correction: bool, is_amendment: bool) -> Entry {
        let mut trade = self.recent();
        self.amended += 1;
        trade.qty = units(1_000_000_000 + self.amended, DECIMALS);
        trade.kind = match (is_correction, is_amendment) {
            (true, _) => Kind::Correction,
            (false, true) => Kind::Bust,
            (false, false) => Kind::Trade,
        };
        // A busted trade can't be corrected.
        let is_busted = self.busted.contains(&identity(&trade));
        if trade.kind == Kind::Bust || is_busted && is_amendment {
            trade.kind = Kind::Bust;
            self.busted.insert(identity(&trade));
        }
        let disposition = match is_amendment {
            true => Disposition::Amendment,
            false => Disposition::Dead(Flaw::Conflict),
        };
        Entry {
            partition: producer::partition(&trade.symbol, self.plan.partitions),
            trade,
            disposition,
        }
    }

    /// Returns one of the last trades, mostly a recent one.
    fn recent(&mut self) -> Trade {
        let reach = if self.rng.random_bool(0.5) { 50 } else { MAX_DISTANCE };
        let oldest = self.made.len().saturating_sub(reach);
        self.made[self.rng.random_range(oldest..self.made.len())].clone()
    }

    /// Returns the lower of two random symbols, so that some symbols are busy and others quiet.
    fn choose(&mut self) -> usize {
        let [one, other] = [0; 2].map(|_| self.rng.random_range(0..self.markets.len()));
        one.min(other)
    }

    fn trade(&mut self, market: usize) -> Trade {
        let ts_us = self.event_time(market);
        let market = &mut self.markets[market];
        let moved = i64::from(market.price) + self.rng.random_range(-50..=50);
        market.price = u32::try_from(moved.clamp(100, 10_000_000)).expect("a price");
        market.newest_us = market.newest_us.max(ts_us);
        market.trades += 1;
        let id = match market.text_ids {
            true => format!("{:08x}-{}", self.rng.random::<u32>(), market.trades),
            false => (market.trades % market.ids).to_string(),
        };
        Trade {
            kind: Kind::Trade,
            symbol: market.symbol.clone(),
            ts_us,
            price: units(market.price.into(), 2),
            qty: units(self.rng.random_range(1..=1_000_000_000), DECIMALS),
            id: Some(id),
        }
    }

    fn event_time(&mut self, market: usize) -> i64 {
        let newest_us = self.markets[market].newest_us;
        let drawn = self.rng.random::<f64>();
        let [late, out_of_order, equal] = [self.plan.late, self.plan.out_of_order, self.plan.equal_times];
        let behind = if drawn < late {
            LATE_FROM..LATE_TO
        } else if drawn < late + out_of_order {
            Duration::ZERO..OUT_OF_ORDER
        } else if drawn < late + out_of_order + equal {
            return newest_us;
        } else {
            return self.now_us;
        };
        let behind_us = self.rng.random_range(us(behind.start)..us(behind.end));
        let ts_us = newest_us - behind_us;
        if ts_us < self.start_us { self.now_us } else { ts_us }
    }
}

fn us(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).expect("a duration")
}

/// Formats `count × 10^-decimals` as decimal text, without trailing zeros.
fn units(count: u64, decimals: usize) -> String {
    let digits = format!("{count:0>width$}", width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    let fraction = fraction.trim_end_matches('0');
    match fraction {
        "" => whole.to_owned(),
        _ => format!("{whole}.{fraction}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::{counted, group, lots};

    #[test]
    fn the_same_seed_makes_the_same_load_and_another_seed_another() {
        let plan = Plan::new(7, 2_000);
        assert_eq!(Load::new(&plan), Load::new(&plan));
        let other = Plan::new(8, 2_000);
        assert_ne!(Load::new(&plan), Load::new(&other));
    }

    #[test]
    fn a_load_has_a_share_of_everything_and_says_what_becomes_of_it() {
        let load = Load::new(&Plan::new(1, 20_000));
        assert!((800..1_200).contains(&load.duplicates()), "{}", load.duplicates());
        let (entries, dead) = (load.trades(), load.dead_letters());
        assert!((50..200).contains(&dead.len()), "{}", dead.len());
        assert_eq!(entries.len() + load.duplicates() + dead.len(), 20_000);
        assert_eq!(dead.values().collect::<HashSet<_>>().len(), Flaw::ALL.len() + 1);
        let of_kind = |kind| entries.iter().filter(|entry| entry.kind == kind).count();
        assert!(
            (20..60).contains(&of_kind(Kind::Correction)),
            "{}",
            of_kind(Kind::Correction)
        );
        let busted: HashSet<_> = entries
            .iter()
            .filter(|entry| entry.kind == Kind::Bust)
            .map(identity)
            .collect();
        assert!((10..40).contains(&busted.len()), "{}", busted.len());

        let trades: Vec<_> = entries.iter().filter(|entry| entry.kind == Kind::Trade).collect();
        let ids: HashSet<_> = trades.iter().map(|trade| (&trade.symbol, &trade.id)).collect();
        assert!(ids.len() < trades.len(), "some IDs begin again");
        assert_eq!(counted(&entries).len(), trades.len() - busted.len());
        let in_bars: i64 = group(&entries, 60_000_000).values().map(|bar| bar.trades).sum();
        assert_eq!(usize::try_from(in_bars).unwrap(), trades.len() - busted.len());

        let mut newest: BTreeMap<&str, i64> = BTreeMap::new();
        let mut late = 0;
        for trade in &trades {
            let newest = newest.entry(&trade.symbol).or_insert(trade.ts_us);
            late += usize::from(*newest - trade.ts_us >= us(LATE_FROM));
            *newest = (*newest).max(trade.ts_us);
        }
        assert!((50..150).contains(&late), "{late}");
        let partitions: HashSet<_> = load.entries.iter().map(|entry| entry.partition).collect();
        assert_eq!(partitions.len(), 4);
    }

    #[test]
    fn a_feed_pauses_connected_and_disconnected() {
        let load = Load::new(&Plan {
            pauses: 4,
            late: 0.0,
            out_of_order: 0.0,
            ..Plan::new(1, 20_000)
        });
        let traded = load.entries.iter().filter(|entry| entry.trade.symbol == "LOAD0");
        let traded = traded.map(|entry| entry.trade.ts_us - entry.trade.ts_us % 60_000_000);
        let traded = BTreeMap::from([("LOAD0", traded.collect())]);
        let minutes = feed::minutes(&load.heartbeats, &traded)["LOAD0"];
        // Two pauses of 25 minutes each, of which the first and the last may be traded.
        assert!((46..=52).contains(&minutes.quiet), "{minutes:?}");
        assert!((46..=52).contains(&minutes.missing), "{minutes:?}");
        assert!((350..=370).contains(&minutes.traded), "{minutes:?}");
    }

    #[test]
    fn quantities_are_decimal_text() {
        assert_eq!([units(1, 8), units(100_000_000, 8)], ["0.00000001", "1"]);
        assert_eq!(units(12_345, 2), "123.45");
        assert_eq!(lots(&units(1_234_567_890, 8)), 1_234_567_890);
    }
}
