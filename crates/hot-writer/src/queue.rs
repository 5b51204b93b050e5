//! Orders the open candles that wait to be written. Pure: times are passed in.
//!
//! A candle's deadline is the time at which its oldest unwritten tick was read plus the age that is aimed at for its
//! timeframe. The candle with the earliest deadline is written first, so 1-minute candles precede larger ones, the
//! oldest ones precede newer ones of the same timeframe, and none waits forever. A tick of a waiting candle replaces
//! the state to write and leaves the deadline.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use foldhash::HashMap;
use storage_core::domain::candle::Candle;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles::ChangedFields;

const TIMEFRAMES: usize = Timeframe::ALL.len();

/// Ratio of the age that is aimed at for larger timeframes to that for 1-minute candles.
const LARGER_FACTOR: u32 = 10;

/// A candle to write.
#[derive(Debug)]
pub(crate) struct OpenCandle {
    pub(crate) symbol: Symbol,
    pub(crate) timeframe: Timeframe,
    pub(crate) candle: Candle,
    pub(crate) changed: ChangedFields,
    /// Revision of the candle in Redis that this owner has written.
    pub(crate) base: Option<Revision>,
    /// `true` if its TTL has to begin again.
    pub(crate) renews_ttl: bool,
}

/// Open candles of a partition that wait to be written.
pub(crate) struct WriteQueue {
    max_age: Duration,
    /// Candles by timeframe, in the order of their deadlines. One that was written meanwhile has no unwritten state.
    waiting: [VecDeque<Waiting>; TIMEFRAMES],
    symbols: HashMap<Symbol, [CandleState; TIMEFRAMES]>,
    /// Number of candles with an unwritten state.
    len: usize,
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
    unwritten: Option<Box<(Candle, ChangedFields)>>,
    /// What this owner has written last: the revision and the time at which the TTL began.
    written: Option<(Revision, Instant)>,
}

impl WriteQueue {
    pub(crate) fn new(max_age: Duration) -> Self {
        Self {
            max_age,
            waiting: Default::default(),
            symbols: HashMap::default(),
            len: 0,
        }
    }

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
            Some(state) => **state = (candle, state.1.or(changed)),
            None => {
                *unwritten = Some(Box::new((candle, changed)));
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

    /// Returns the earliest deadline.
    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        self.first().map(|(deadline, _)| deadline)
    }

    /// Returns the number of the first batch with an unwritten tick.
    pub(crate) fn first_batch(&mut self) -> Option<u64> {
        let heads = Timeframe::ALL
            .into_iter()
            .filter_map(|timeframe| self.head(timeframe).map(|head| head.batch));
        heads.min()
    }

    /// Takes the candle with the earliest deadline if that is not after `until`. Its TTL begins again once it has run
    /// for `margin` at `now`.
    pub(crate) fn pop(
        &mut self,
        until: Option<Instant>,
        now: Instant,
        margin: impl Fn(Timeframe) -> Duration,
    ) -> Option<OpenCandle> {
        let (deadline, timeframe) = self.first()?;
        if until.is_some_and(|until| deadline > until) {
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
        let (candle, changed) = *state.unwritten.take()?;
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
            changed,
            base: base.map(|(revision, _)| revision),
            renews_ttl: renewed.is_none(),
        })
    }

    /// Returns the earliest deadline and its timeframe.
    fn first(&mut self) -> Option<(Instant, Timeframe)> {
        let max_age = self.max_age;
        let deadline = |timeframe, since: Instant| match timeframe {
            Timeframe::M1 => since + max_age,
            _ => since + LARGER_FACTOR * max_age,
        };
        let heads = Timeframe::ALL.into_iter().filter_map(|timeframe| {
            let since = self.head(timeframe)?.since;
            Some((deadline(timeframe, since), timeframe))
        });
        heads.min_by_key(|(deadline, _)| *deadline)
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
