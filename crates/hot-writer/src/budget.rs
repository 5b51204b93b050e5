//! Limits the share of Redis that open candles cost, over all partitions of this replica and all replicas.
//!
//! [`Bucket`] is a token bucket: a write takes a token, and tokens return at the rate that the budget allows. While
//! there are tokens, a candle is written immediately. Otherwise the partition whose 1-minute candle waits the longest
//! writes next, and larger candles have their turn if no 1-minute candle waits. [`Turns`] guarantees old larger candles
//! a quarter of the writes. [`crate::share`] sets the rate.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storage_core::redis::hot::PUTS_PER_CALL;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout_at;

use crate::queue::{Kind, Turn, WaitingSince};

/// Time for which unused tokens are kept: the longest time for which more than the rate is written.
const BURST: Duration = Duration::from_millis(250);

/// Maximum time until the rate is looked at again.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Time by which a candle may precede those of other partitions that wait longer, so that a call writes several
/// candles.
const SLACK: Duration = Duration::from_millis(10);

/// Ratio of the age that is aimed at for larger timeframes to that for 1-minute candles.
const LARGER_FACTOR: u32 = 10;

/// Number of larger candles in a call beyond the budget. 1-minute candles wait until its tokens have returned, and with
/// 64 of them waited 3.5 ms.
const LARGER_PER_CALL: usize = 16;

/// Number of writes of 1-minute candles for each one of an old larger candle.
const MINUTES_PER_LARGER: usize = 3;

/// Number of writes of 1-minute candles after which it is the turn of old larger ones.
const MINUTES_PER_TURN: usize = MINUTES_PER_LARGER * LARGER_PER_CALL;

/// A token bucket. The number of tokens is negative after a call that took more than there were.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Writes per second.
    rate: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// Creates a full bucket.
    pub(crate) fn new(rate: f64, now: Instant) -> Self {
        Self {
            rate,
            tokens: rate * BURST.as_secs_f64(),
            at: now,
        }
    }

    /// Sets the number of tokens that return per second, from `now` on.
    pub(crate) fn set_rate(&mut self, rate: f64, now: Instant) {
        self.refill(now);
        self.rate = rate;
    }

    /// Returns the time from which the next write is allowed, or from which to ask again.
    pub(crate) fn ready_at(&mut self, now: Instant) -> Instant {
        self.refill(now);
        let wait = Duration::try_from_secs_f64(-self.tokens.min(0.0) / self.rate);
        now + wait.unwrap_or(MAX_WAIT).min(MAX_WAIT)
    }

    /// Takes the tokens of `writes`.
    pub(crate) fn spend(&mut self, writes: usize) {
        self.tokens -= f64::from(u32::try_from(writes).unwrap_or(u32::MAX));
    }

    /// Returns the tokens of `writes` that were not made.
    pub(crate) fn refund(&mut self, writes: usize) {
        self.tokens += f64::from(u32::try_from(writes).unwrap_or(u32::MAX));
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.rate).min(self.rate * BURST.as_secs_f64());
        self.at = now;
    }
}

/// Decides which kind of candles is written next. Pure: times are passed in.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Age from which larger candles are old.
    larger_age: Duration,
    /// Number of writes of 1-minute candles that larger candles have not answered yet, up to those of a call.
    minutes: usize,
}

impl Turns {
    /// Creates the turns for 1-minute candles whose aimed age is `max_age`.
    pub(crate) fn new(max_age: Duration) -> Self {
        Self {
            larger_age: LARGER_FACTOR * max_age,
            minutes: 0,
        }
    }

    /// Returns the kind that is written next; `None` if no candle waits.
    pub(crate) fn next(&self, waiting: WaitingSince, now: Instant) -> Option<Kind> {
        let is_due = |larger| self.minutes >= MINUTES_PER_TURN && now - larger >= self.larger_age;
        match (waiting.minute, waiting.larger) {
            (None, None) => None,
            (Some(_), None) => Some(Kind::Minute),
            (Some(_), Some(larger)) if !is_due(larger) => Some(Kind::Minute),
            _ => Some(Kind::Larger),
        }
    }

    /// Counts writes of a turn.
    pub(crate) fn count(&mut self, kind: Kind, writes: usize) {
        self.minutes = match kind {
            Kind::Minute => (self.minutes + writes).min(MINUTES_PER_LARGER * PUTS_PER_CALL),
            Kind::Larger => self.minutes.saturating_sub(MINUTES_PER_LARGER * writes),
        };
    }
}

/// Returns the maximum number of candles in a call.
pub(crate) fn call_size(kind: Option<Kind>) -> usize {
    match kind {
        Some(Kind::Larger) => LARGER_PER_CALL,
        _ => PUTS_PER_CALL,
    }
}

/// The budget of this replica, shared by its partitions.
#[derive(Clone, Debug)]
pub(crate) struct Budget(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notified when a partition begins to wait or returns tokens.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    bucket: Bucket,
    turns: Turns,
    /// Partitions that wait for a grant.
    requests: BTreeMap<u64, Request>,
    next_request: u64,
    /// Number of candles that wait, by partition.
    waiting: BTreeMap<u16, usize>,
    /// Number of writes so far.
    writes: u64,
}

#[derive(Debug)]
struct Request {
    since: WaitingSince,
    grant: oneshot::Sender<Grant>,
}

/// Permission to write candles. What it does not spend returns to the budget.
#[derive(Debug)]
pub(crate) struct Grant {
    budget: Budget,
    /// The candles that may be written.
    pub(crate) turn: Turn,
    /// Number of candles that may be written.
    pub(crate) writes: usize,
}

impl Budget {
    /// Creates a budget of `rate` writes per second for 1-minute candles whose aimed age is `max_age`.
    pub(crate) fn new(rate: f64, max_age: Duration) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                bucket: Bucket::new(rate, Instant::now()),
                turns: Turns::new(max_age),
                requests: BTreeMap::new(),
                next_request: 0,
                waiting: BTreeMap::new(),
                writes: 0,
            }),
            changed: Notify::new(),
        }))
    }

    /// Sets the number of writes per second.
    pub(crate) fn set_rate(&self, rate: f64) {
        self.state().bucket.set_rate(rate, Instant::now());
        self.0.changed.notify_one();
    }

    /// Waits until candles of a partition may be written of which the first ones wait since `since`. Cancel safe.
    pub(crate) async fn acquire(&self, since: WaitingSince) -> Grant {
        let granted = {
            let mut state = self.state();
            let now = Instant::now();
            state.remove_given_up();
            if state.requests.is_empty() && state.bucket.ready_at(now) <= now {
                return self.grant(&mut state, Turn::default());
            }
            let (grant, granted) = oneshot::channel();
            let number = state.next_request;
            state.next_request += 1;
            state.requests.insert(number, Request { since, grant });
            granted
        };
        self.0.changed.notify_one();
        match granted.await {
            Ok(grant) => grant,
            // The worker ends.
            Err(_) => std::future::pending().await,
        }
    }

    /// Sets the number of candles of a partition that wait.
    pub(crate) fn set_waiting(&self, partition: u16, candles: usize) {
        self.state().waiting.insert(partition, candles);
    }

    /// Returns the number of writes so far and of candles that wait.
    pub(crate) fn usage(&self) -> (u64, usize) {
        let state = self.state();
        (state.writes, state.waiting.values().sum())
    }

    /// Grants requests in turn as tokens return, until it is dropped.
    pub(crate) async fn serve(&self) -> Infallible {
        loop {
            match self.grant_next() {
                None => self.0.changed.notified().await,
                Some(ready_at) => {
                    let _ = timeout_at(ready_at.into(), self.0.changed.notified()).await;
                }
            }
        }
    }

    /// Grants requests while there are tokens. Returns the time at which the next request may be granted, if any waits.
    fn grant_next(&self) -> Option<Instant> {
        loop {
            let mut state = self.state();
            state.remove_given_up();
            let now = Instant::now();
            let kind = state.turns.next(state.waiting_since(), now)?;
            let ready_at = state.bucket.ready_at(now);
            if ready_at > now {
                return Some(ready_at);
            }
            let (_, request) = state.take_first(kind)?;
            let until = state.first(kind).map(|(since, _)| since + SLACK);
            let turn = Turn {
                kind: Some(kind),
                until,
            };
            let grant = self.grant(&mut state, turn);
            // The lock must not be held while a grant without a receiver is dropped.
            drop(state);
            drop(request.grant.send(grant));
        }
    }

    fn grant(&self, state: &mut State, turn: Turn) -> Grant {
        let writes = call_size(turn.kind);
        state.bucket.spend(writes);
        Grant {
            budget: self.clone(),
            turn,
            writes,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn remove_given_up(&mut self) {
        self.requests.retain(|_, request| !request.grant.is_closed());
    }

    /// Returns the times since which the first candles of all partitions that wait for a grant wait.
    fn waiting_since(&self) -> WaitingSince {
        WaitingSince {
            minute: self.first(Kind::Minute).map(|(since, _)| since),
            larger: self.first(Kind::Larger).map(|(since, _)| since),
        }
    }

    /// Returns the request with the first candle of a kind, and the time since which that waits.
    fn first(&self, kind: Kind) -> Option<(Instant, u64)> {
        let waiting = self.requests.iter();
        let waiting = waiting.filter_map(|(number, request)| Some((request.since.of(kind)?, *number)));
        waiting.min()
    }

    /// Takes the request with the first candle of a kind.
    fn take_first(&mut self, kind: Kind) -> Option<(u64, Request)> {
        let (_, number) = self.first(kind)?;
        self.requests.remove_entry(&number)
    }
}

impl Grant {
    /// Spends `writes`, which may be a few more than granted, and returns the rest.
    pub(crate) fn spend(mut self, writes: usize) {
        let mut state = self.budget.state();
        state.bucket.spend(writes.saturating_sub(self.writes));
        state.writes += u64::try_from(writes).unwrap_or(u64::MAX);
        if let Some(kind) = self.turn.kind {
            state.turns.count(kind, writes);
        }
        drop(state);
        self.writes = self.writes.saturating_sub(writes);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.budget.state().bucket.refund(self.writes);
        self.budget.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_AGE: Duration = Duration::from_millis(50);

    fn since(minute: Option<Instant>, larger: Option<Instant>) -> WaitingSince {
        WaitingSince { minute, larger }
    }

    #[tokio::test]
    async fn the_candle_that_waits_the_longest_is_granted_first_and_what_is_not_spent_returns() {
        let budget = Budget::new(100.0, MAX_AGE);
        let now = Instant::now();
        let immediate = budget.acquire(since(Some(now), Some(now))).await;
        assert_eq!(immediate.turn, Turn::default());
        budget.state().bucket.spend(1_000);
        let given_up = timeout_at(now.into(), budget.acquire(since(Some(now), None))).await;
        assert!(given_up.is_err());
        let times = [30, 10, 20].map(|ms| now + Duration::from_millis(ms));
        let requests = [
            since(Some(times[0]), None),
            since(Some(times[1]), Some(now)),
            since(Some(times[2]), None),
            since(None, Some(times[0])),
        ];
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiting = requests.map(|request| {
            let (budget, order) = (budget.clone(), order.clone());
            tokio::spawn(async move {
                let grant = budget.acquire(request).await;
                order.lock().unwrap().push((request, grant.turn));
            })
        });
        // The request that was given up is there until the next one looks.
        while budget.state().requests.len() < requests.len() {
            tokio::task::yield_now().await;
        }
        budget.state().bucket.refund(1_000);
        immediate.spend(1);
        let served = budget.clone();
        let serving = tokio::spawn(async move { served.serve().await });
        for task in waiting {
            task.await.unwrap();
        }
        let turn = |kind, until: Option<Instant>| Turn {
            kind: Some(kind),
            until: until.map(|until| until + SLACK),
        };
        let expected = [
            (requests[1], turn(Kind::Minute, Some(times[2]))),
            (requests[2], turn(Kind::Minute, Some(times[0]))),
            (requests[0], turn(Kind::Minute, None)),
            (requests[3], turn(Kind::Larger, None)),
        ];
        assert_eq!(*order.lock().unwrap(), expected);
        assert_eq!(budget.usage().0, 1);
        serving.abort();
    }

    #[test]
    fn larger_candles_get_a_quarter_of_the_writes_once_they_are_old_and_the_rest_of_the_budget() {
        let now = Instant::now();
        let mut turns = Turns::new(MAX_AGE);
        let (young, old) = (now - MAX_AGE, now - LARGER_FACTOR * MAX_AGE);
        let mut part_of = |since_larger: Instant, calls: usize| {
            let (mut larger, mut all) = (0, 0);
            for _ in 0..calls {
                let kind = turns.next(since(Some(now), Some(since_larger)), now).unwrap();
                let writes = call_size(Some(kind));
                turns.count(kind, writes);
                larger += if kind == Kind::Larger { writes } else { 0 };
                all += writes;
            }
            larger as f64 / all as f64
        };
        assert_eq!(part_of(young, 40), 0.0);
        assert!((part_of(old, 1_000) - 0.25).abs() < 0.01);
        assert_eq!(turns.next(since(None, Some(young)), now), Some(Kind::Larger));
        assert_eq!(turns.next(since(Some(young), None), now), Some(Kind::Minute));
        assert_eq!(turns.next(since(None, None), now), None);
    }

    #[test]
    fn a_rate_near_zero_is_looked_at_again() {
        let now = Instant::now();
        let mut bucket = Bucket::new(f64::MIN_POSITIVE, now);
        bucket.spend(PUTS_PER_CALL);
        assert_eq!(bucket.ready_at(now), now + MAX_WAIT);
    }
}
