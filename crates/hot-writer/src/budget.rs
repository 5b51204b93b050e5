//! Limits the share of Redis that open candles cost, over all partitions of this replica and all replicas.
//!
//! Partitions wait here for their turn. Of those with candles of the kind that [`WriteLimit`] allows next, the one
//! whose candle waits the longest is granted first. [`crate::share`] sets the rate.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storage_core::redis::hot::PUTS_PER_CALL;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout_at;

use crate::limit::WriteLimit;
use crate::queue::{Kind, Turn, WaitingSince};

/// Time by which a candle may precede those of other partitions that wait longer, so that a call writes several
/// candles.
const SLACK: Duration = Duration::from_millis(10);

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
    limit: WriteLimit,
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

/// Permission to write up to [`PUTS_PER_CALL`] candles. What it does not spend returns to the budget.
#[derive(Debug)]
pub(crate) struct Grant {
    budget: Budget,
    /// The candles that may be written.
    pub(crate) turn: Turn,
    unspent: usize,
}

impl Budget {
    /// Creates a budget of `rate` writes per second for 1-minute candles whose aimed age is `max_age`.
    pub(crate) fn new(rate: f64, max_age: Duration) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                limit: WriteLimit::new(rate, max_age, Instant::now()),
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
        self.state().limit.set_rate(rate, Instant::now());
        self.0.changed.notify_one();
    }

    /// Waits until candles of a partition may be written of which the first ones wait since `since`. Cancel safe.
    pub(crate) async fn acquire(&self, since: WaitingSince) -> Grant {
        let (grant, granted) = oneshot::channel();
        {
            let mut state = self.state();
            let number = state.next_request;
            state.next_request += 1;
            state.requests.insert(number, Request { since, grant });
        }
        if self.grant_next().is_some() {
            self.0.changed.notify_one();
        }
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

    /// Grants the requests that the limit allows. Returns the time at which the next one may be granted, if any waits.
    fn grant_next(&self) -> Option<Instant> {
        loop {
            let mut state = self.state();
            state.requests.retain(|_, request| !request.grant.is_closed());
            let now = Instant::now();
            let waiting = state.waiting_since();
            let (kind, ready_at) = state.limit.next(waiting, now)?;
            if ready_at > now {
                return Some(ready_at);
            }
            let request = state.take_first(kind)?;
            let is_alone = state.requests.is_empty() && state.limit.allows_all();
            let turn = Turn {
                kind: (!is_alone).then_some(kind),
                until: state.first(kind).map(|(since, _)| since + SLACK),
            };
            state.limit.spend(PUTS_PER_CALL);
            let grant = Grant {
                budget: self.clone(),
                turn,
                unspent: PUTS_PER_CALL,
            };
            // The lock must not be held while a grant without a receiver is dropped.
            drop(state);
            drop(request.grant.send(grant));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
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
    fn take_first(&mut self, kind: Kind) -> Option<Request> {
        let (_, number) = self.first(kind)?;
        self.requests.remove(&number)
    }
}

impl Grant {
    /// Spends `writes`, which may be a few more than granted, and returns the rest.
    pub(crate) fn spend(mut self, writes: usize) {
        let mut state = self.budget.state();
        state.limit.spend(writes.saturating_sub(self.unspent));
        state.writes += u64::try_from(writes).unwrap_or(u64::MAX);
        if let Some(kind) = self.turn.kind {
            state.limit.count(kind, writes);
        }
        drop(state);
        self.unspent = self.unspent.saturating_sub(writes);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.budget.state().limit.refund(self.unspent);
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
        budget.state().limit.spend(1_000);
        let given_up = timeout_at(now.into(), budget.acquire(since(Some(now), None))).await;
        assert!(given_up.is_err());
        let times = [30, 10, 20].map(|ms| now + Duration::from_millis(ms));
        let requests = [
            since(Some(times[0]), None),
            since(Some(times[1]), Some(now)),
            since(Some(times[2]), None),
        ];
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiting = requests.map(|request| {
            let (budget, order) = (budget.clone(), order.clone());
            tokio::spawn(async move {
                let grant = budget.acquire(request).await;
                order.lock().unwrap().push((request, grant.turn.until));
            })
        });
        while budget.state().requests.len() < requests.len() {
            tokio::task::yield_now().await;
        }
        budget.state().limit.refund(1_000);
        immediate.spend(1);
        let served = budget.clone();
        let serving = tokio::spawn(async move { served.serve().await });
        for task in waiting {
            task.await.unwrap();
        }
        let expected = [
            (requests[1], Some(times[2] + SLACK)),
            (requests[2], Some(times[0] + SLACK)),
            (requests[0], None),
        ];
        assert_eq!(*order.lock().unwrap(), expected);
        assert_eq!(budget.usage().0, 1);
        serving.abort();
    }
}
