//! Orders the open candles that wait to be written. Pure: times are passed in.
//!
//! 1-minute candles are written first, then larger ones. Of one kind the candle that waits the longest is written
//! first, so none waits forever. A tick of a waiting candle replaces the state to write and leaves its place.
//! [`crate::budget`] decides which kind a partition writes next.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use storage_core::domain::candle::Candle;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles::ChangedFields;

const TIMEFRAMES: usize = Timeframe::ALL.len();

/// Kind of open candles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// 1-minute candles.
    Minute,
    /// Candles of all other timeframes.
    Larger,
}

/// Times since which the first candle of each kind waits; `None` if none waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WaitingSince {
    pub(crate) minute: Option<Instant>,
    pub(crate) larger: Option<Instant>,
}

impl WaitingSince {
    /// Returns the time since which the first candle of a kind waits.
    pub(crate) fn of(&self, kind: Kind) -> Option<Instant> {
        match kind {
            Kind::Minute => self.minute,
            Kind::Larger => self.larger,
        }
    }

    /// Returns `true` if a candle waits.
    pub(crate) fn any(&self) -> bool {
        self.minute.or(self.larger).is_some()
    }
}

/// The candles that may be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Turn {
    /// Kind of the candles; `None` if both kinds may be written.
    pub(crate) kind: Option<Kind>,
    /// Latest time since which the candles wait; `None` for all.
    pub(crate) until: Option<Instant>,
}

/// A candle to write.
#[derive(Debug)]
pub(crate) struct OpenCandle {
    pub(crate) symbol: Symbol,
    pub(crate) timeframe: Timeframe,
    pub(crate) candle: Candle,
    /// Time at which its first unwritten tick was read.
    pub(crate) since: Instant,
    pub(crate) changed: ChangedFields,
    /// Revision of the candle in Redis that this owner has written.
    pub(crate) base: Option<Revision>,
    /// `true` if its TTL has to begin again.
    pub(crate) renews_ttl: bool,
}

/// Open candles of a partition that wait to be written.
#[derive(Default)]
pub(crate) struct WriteQueue {
    /// Candles by timeframe, the one that waits the longest first. One that was written meanwhile has no unwritten
    /// state.
    waiting: [VecDeque<Waiting>; TIMEFRAMES],
    symbols: HashMap<Symbol, [CandleState; TIMEFRAMES]>,
    /// Number of candles with an unwritten state.
    len: usize,
}

/// State of a candle that Redis does not have.
#[derive(Debug)]
struct Unwritten {
    candle: Candle,
    changed: ChangedFields,
    /// Time at which the first tick of these changes was read.
    since: Instant,
}

#[derive(Debug)]
struct Waiting {
    symbol: Symbol,
    since: Instant,
    /// Number of the first batch with an unwritten tick of the candle.
    batch: u64,
}

/// State of a symbol's candle of one timeframe.
#[derive(Debug, Default)]
struct CandleState {
    unwritten: Option<Box<Unwritten>>,
    /// Revision that this owner has written last, and the time at which its TTL began.
    written: Option<(Revision, Instant)>,
}

impl WriteQueue {
    /// Returns the number of candles that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns `true` if a candle of the symbol waits.
    pub(crate) fn contains(&self, symbol: &Symbol) -> bool {
        let states = self.symbols.get(symbol);
        states.is_some_and(|states| states.iter().any(|state| state.unwritten.is_some()))
    }

    /// Adds a candle with ticks of a batch that was read at `since`, or replaces its unwritten state.
    pub(crate) fn push(
        &mut self,
        symbol: &Symbol,
        timeframe: Timeframe,
        candle: Candle,
        changed: ChangedFields,
        (batch, since): (u64, Instant),
    ) {
        let states = self.symbols.entry(symbol.clone()).or_default();
        let unwritten = &mut states[timeframe as usize].unwritten;
        match unwritten {
            Some(state) => {
                state.candle = candle;
                state.changed = state.changed.or(changed);
            }
            None => {
                *unwritten = Some(Box::new(Unwritten { candle, changed, since }));
                self.len += 1;
                self.waiting[timeframe as usize].push_back(Waiting {
                    symbol: symbol.clone(),
                    since,
                    batch,
                });
            }
        }
    }

    /// Removes the unwritten state of a candle, which is written in another way.
    pub(crate) fn discard(&mut self, symbol: &Symbol, timeframe: Timeframe) {
        if let Some(states) = self.symbols.get_mut(symbol) {
            let state = std::mem::take(&mut states[timeframe as usize]);
            self.len -= usize::from(state.unwritten.is_some());
        }
    }

    /// Removes a symbol without open candles.
    pub(crate) fn remove(&mut self, symbol: &Symbol) {
        for timeframe in Timeframe::ALL {
            self.discard(symbol, timeframe);
        }
        self.symbols.remove(symbol);
    }

    /// Returns the times since which the first candles wait.
    pub(crate) fn waiting_since(&mut self) -> WaitingSince {
        WaitingSince {
            minute: self.first(Kind::Minute).map(|(since, _)| since),
            larger: self.first(Kind::Larger).map(|(since, _)| since),
        }
    }

    /// Returns the number of the first batch with an unwritten tick.
    pub(crate) fn first_batch(&mut self) -> Option<u64> {
        let heads = Timeframe::ALL
            .into_iter()
            .filter_map(|timeframe| self.head(timeframe).map(|head| head.batch));
        heads.min()
    }

    /// Takes the first of the candles of `turn`. Its TTL begins again once it has run for `margin` at `now`.
    pub(crate) fn pop(
        &mut self,
        turn: Turn,
        now: Instant,
        margin: impl Fn(Timeframe) -> Duration,
    ) -> Option<OpenCandle> {
        let mut kinds = [Kind::Minute, Kind::Larger].into_iter();
        let (since, timeframe) = kinds.find_map(|kind| match turn.kind {
            Some(only) if only != kind => None,
            _ => self.first(kind),
        })?;
        if turn.until.is_some_and(|until| since > until) {
            return None;
        }
        let symbol = self.waiting[timeframe as usize].pop_front()?.symbol;
        self.take(&symbol, timeframe, now, margin)
    }

    /// Takes the unwritten state of a symbol's candle.
    pub(crate) fn take(
        &mut self,
        symbol: &Symbol,
        timeframe: Timeframe,
        now: Instant,
        margin: impl Fn(Timeframe) -> Duration,
    ) -> Option<OpenCandle> {
        let state = &mut self.symbols.get_mut(symbol)?[timeframe as usize];
        let Unwritten { candle, changed, since } = *state.unwritten.take()?;
        self.len -= 1;
        let base = state.written.filter(|_| !changed.all);
        let renewed = base
            .map(|(_, renewed)| renewed)
            .filter(|renewed| now - *renewed < margin(timeframe));
        state.written = Some((candle.revision, renewed.unwrap_or(now)));
        Some(OpenCandle {
            symbol: symbol.clone(),
            timeframe,
            candle,
            since,
            changed,
            base: base.map(|(revision, _)| revision),
            renews_ttl: renewed.is_none(),
        })
    }

    /// Returns the time since which the first candle of a kind waits, and its timeframe.
    fn first(&mut self, kind: Kind) -> Option<(Instant, Timeframe)> {
        let [minute, larger @ ..] = &Timeframe::ALL;
        let timeframes = match kind {
            Kind::Minute => std::slice::from_ref(minute),
            Kind::Larger => larger,
        };
        let heads = timeframes
            .iter()
            .filter_map(|timeframe| Some((self.head(*timeframe)?.since, *timeframe)));
        heads.min_by_key(|(since, _)| *since)
    }

    /// Returns the first candle of a timeframe that has an unwritten state.
    fn head(&mut self, timeframe: Timeframe) -> Option<&Waiting> {
        let waiting = &mut self.waiting[timeframe as usize];
        while let Some(head) = waiting.front() {
            let states = self.symbols.get(&head.symbol);
            if states.is_some_and(|states| states[timeframe as usize].unwritten.is_some()) {
                break;
            }
            waiting.pop_front();
        }
        self.waiting[timeframe as usize].front()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use storage_core::domain::decimal::Decimal;
    use storage_core::redis::hot::PUTS_PER_CALL;

    use super::*;
    use crate::limit::WriteLimit;

    const MAX_AGE: Duration = Duration::from_millis(50);
    const MS: Duration = Duration::from_millis(1);

    fn candle(revision: i64) -> Candle {
        Candle::of_tick(Timeframe::M1, 0, 1.0, Decimal::ZERO, revision.try_into().unwrap())
    }

    fn symbol(number: usize) -> Symbol {
        format!("S{number}").parse().unwrap()
    }

    fn all(_: Timeframe) -> Duration {
        Duration::from_secs(60)
    }

    /// A feed of ticks and a writer that writes what the budget allows, both in steps of 1 ms.
    struct Simulation {
        queue: WriteQueue,
        limit: WriteLimit,
        now: Instant,
        batch: u64,
        /// Time of the first unwritten tick by symbol and timeframe, and the longest time that one has waited.
        unwritten: HashMap<(usize, Timeframe), Instant>,
        longest: HashMap<Timeframe, Duration>,
        written: usize,
    }

    impl Simulation {
        fn new(rate: f64) -> Self {
            let now = Instant::now();
            Self {
                queue: WriteQueue::default(),
                limit: WriteLimit::new(rate, MAX_AGE, now),
                now,
                batch: 0,
                unwritten: HashMap::default(),
                longest: HashMap::default(),
                written: 0,
            }
        }

        fn step(&mut self, ticks: impl IntoIterator<Item = usize>) {
            self.now += MS;
            self.batch += 1;
            for number in ticks {
                for timeframe in Timeframe::ALL {
                    let state = candle(self.batch.cast_signed() + 1);
                    let added = (self.batch, self.now);
                    self.queue
                        .push(&symbol(number), timeframe, state, ChangedFields::default(), added);
                    self.unwritten.entry((number, timeframe)).or_insert(self.now);
                }
            }
            while let Some((kind, ready_at)) = self.limit.next(self.queue.waiting_since(), self.now)
                && ready_at <= self.now
            {
                let mut count = 0;
                let turn = Turn {
                    kind: Some(kind),
                    until: None,
                };
                while count < PUTS_PER_CALL
                    && let Some(open) = self.queue.pop(turn, self.now, all)
                {
                    let number = open.symbol.as_str()[1..].parse().unwrap();
                    let since = self.unwritten.remove(&(number, open.timeframe)).unwrap();
                    let longest = self.longest.entry(open.timeframe).or_default();
                    *longest = (*longest).max(self.now - since);
                    count += 1;
                }
                self.limit.spend(count);
                self.limit.count(kind, count);
                self.written += count;
            }
        }

        fn longest(&self, timeframe: Timeframe) -> Duration {
            let waits = self.unwritten.iter().filter(|((_, other), _)| *other == timeframe);
            let waiting = waits.map(|(_, since)| self.now - *since).max();
            self.longest.get(&timeframe).copied().max(waiting).unwrap_or_default()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        #[test]
        fn the_budget_holds_and_no_candle_starves(
            symbols in 1usize..200,
            ticks_per_ms in 1usize..60,
            rate in 500u32..40_000,
            seed in any::<u64>(),
        ) {
            let mut simulation = Simulation::new(rate.into());
            let mut random = seed;
            for _ in 0..1_000 {
                let ticks: Vec<usize> = (0..ticks_per_ms)
                    .map(|_| {
                        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        usize::try_from(random >> 33).unwrap() % symbols
                    })
                    .collect();
                simulation.step(ticks);
            }
            let per_ms = f64::from(rate) / 1_000.0;
            let candles = symbols * Timeframe::ALL.len();
            let most = per_ms * 1_250.0 + PUTS_PER_CALL as f64;
            prop_assert!(simulation.written as f64 <= most, "{} writes", simulation.written);
            // A candle waits at most for each other candle of its kind once. Larger ones may have to get old first.
            let longest = |candles: usize, part: f64| {
                let writes = (candles + 2 * PUTS_PER_CALL) as f64;
                Duration::from_secs_f64(writes / (part * f64::from(rate))) + 2 * MS
            };
            prop_assert!(simulation.longest(Timeframe::M1) <= longest(symbols, 0.75));
            for timeframe in &Timeframe::ALL[1..] {
                let limit = 5 * MAX_AGE + longest(candles, 0.25);
                prop_assert!(simulation.longest(*timeframe) <= limit, "{timeframe}");
            }
            prop_assert!(simulation.longest(Timeframe::M1) <= simulation.longest(Timeframe::D1) + 2 * MS);
            // Within the budget everything is written immediately.
            if (ticks_per_ms * Timeframe::ALL.len()) as f64 <= per_ms {
                prop_assert_eq!(simulation.longest(Timeframe::D1), Duration::ZERO);
            }
        }
    }

    #[test]
    fn of_the_candles_of_a_turn_the_one_that_waits_the_longest_is_first() {
        let now = Instant::now();
        let mut queue = WriteQueue::default();
        let mut push = |name: usize, timeframe, at_ms: u32| {
            queue.push(
                &symbol(name),
                timeframe,
                candle(1),
                ChangedFields::ALL,
                (1, now + at_ms * MS),
            );
        };
        push(1, Timeframe::H1, 0);
        push(2, Timeframe::M1, 20);
        push(3, Timeframe::D1, 10);
        push(4, Timeframe::M1, 30);
        push(5, Timeframe::M1, 40);
        let waiting = queue.waiting_since();
        assert_eq!((waiting.minute, waiting.larger), (Some(now + 20 * MS), Some(now)));
        let mut order = |kind, until_ms: Option<u32>| {
            let until = until_ms.map(|ms| now + ms * MS);
            let taken = std::iter::from_fn(|| queue.pop(Turn { kind, until }, now, all));
            taken.map(|open| open.symbol).collect::<Vec<_>>()
        };
        assert_eq!(order(Some(Kind::Larger), Some(0)), [symbol(1)]);
        assert_eq!(order(Some(Kind::Minute), Some(30)), [2, 4].map(symbol));
        assert_eq!(order(None, None), [5, 3].map(symbol));
        assert_eq!((queue.len(), queue.first_batch()), (0, None));
    }

    #[test]
    fn a_tick_of_a_waiting_candle_replaces_the_state_and_keeps_its_place() {
        let now = Instant::now();
        let mut queue = WriteQueue::default();
        let high = ChangedFields {
            high: true,
            ..ChangedFields::default()
        };
        queue.push(&symbol(1), Timeframe::M1, candle(1), high, (1, now));
        queue.push(
            &symbol(2),
            Timeframe::M1,
            candle(2),
            ChangedFields::default(),
            (2, now + MS),
        );
        queue.push(
            &symbol(1),
            Timeframe::M1,
            candle(3),
            ChangedFields::default(),
            (3, now + 2 * MS),
        );
        assert_eq!(queue.first_batch(), Some(1));
        let first = queue.pop(Turn::default(), now, all).unwrap();
        assert_eq!(
            (first.symbol, first.candle.revision, first.changed),
            (symbol(1), 3.try_into().unwrap(), high)
        );
        assert_eq!((queue.len(), queue.first_batch()), (1, Some(2)));
    }

    #[test]
    fn a_candle_is_written_whole_first_and_after_it_was_discarded() {
        let now = Instant::now();
        let mut queue = WriteQueue::default();
        let mut write = |revision: i64, after: Duration, discards: bool| {
            if discards {
                queue.discard(&symbol(1), Timeframe::M1);
            }
            queue.push(
                &symbol(1),
                Timeframe::M1,
                candle(revision),
                ChangedFields::default(),
                (1, now),
            );
            let open = queue.pop(Turn::default(), now + after, all).unwrap();
            (open.base.map(|base| base.as_i64()), open.renews_ttl)
        };
        assert_eq!(write(1, MS, false), (None, true));
        assert_eq!(write(2, 2 * MS, false), (Some(1), false));
        assert_eq!(write(3, Duration::from_secs(61), false), (Some(2), true));
        assert_eq!(write(4, Duration::from_secs(62), true), (None, true));
    }
}
