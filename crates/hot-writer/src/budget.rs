//! Limits the share of Redis that open candles cost, over all partitions of this replica and all replicas.
//!
//! [`Bucket`] is a token bucket: a write takes a token, and tokens return at the rate that the budget allows. While
//! there are tokens, a candle is written immediately. Otherwise the partition with the earliest deadline writes next.
//! [`crate::share`] sets the rate.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use storage_core::redis::hot::PUTS_PER_CALL;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout_at;

/// Time for which unused tokens are kept: the longest time for which more than the rate is written.
const BURST: Duration = Duration::from_millis(250);

/// Maximum time until the rate is looked at again.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Time by which a candle may precede those of other partitions that have earlier deadlines, so that a call writes
/// several candles.
const SLACK: Duration = Duration::from_millis(10);

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
    /// Partitions that wait for a grant, by deadline.
    requests: BTreeMap<(Instant, u64), oneshot::Sender<Grant>>,
    next_request: u64,
    /// Number of candles that wait, by partition.
    waiting: BTreeMap<u16, usize>,
    /// Number of writes so far.
    writes: u64,
}

/// Permission to write up to [`PUTS_PER_CALL`] candles. What it does not spend returns to the budget.
#[derive(Debug)]
pub(crate) struct Grant {
    budget: Budget,
    /// Latest deadline of a candle that may be written; `None` if no other partition waits.
    pub(crate) until: Option<Instant>,
    unspent: usize,
}

impl Budget {
    /// Creates a budget of `rate` writes per second.
    pub(crate) fn new(rate: f64) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                bucket: Bucket::new(rate, Instant::now()),
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

    /// Waits until the candle with this deadline may be written. Cancel safe.
    pub(crate) async fn acquire(&self, deadline: Instant) -> Grant {
        let granted = {
            let mut state = self.state();
            let now = Instant::now();
            if state.first_deadline().is_none() && state.bucket.ready_at(now) <= now {
                return self.grant(&mut state);
            }
            let (send, granted) = oneshot::channel();
            let number = state.next_request;
            state.next_request += 1;
            state.requests.insert((deadline, number), send);
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

    /// Grants requests in the order of their deadlines as tokens return, until it is dropped.
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
        let mut state = self.state();
        while state.first_deadline().is_some() {
            let now = Instant::now();
            let ready_at = state.bucket.ready_at(now);
            if ready_at > now {
                return Some(ready_at);
            }
            let (_, request) = state.requests.pop_first()?;
            let grant = self.grant(&mut state);
            // The lock must not be held while a grant without a receiver is dropped.
            drop(state);
            drop(request.send(grant));
            state = self.state();
        }
        None
    }

    fn grant(&self, state: &mut State) -> Grant {
        state.bucket.spend(PUTS_PER_CALL);
        Grant {
            budget: self.clone(),
            until: state.first_deadline().map(|deadline| deadline + SLACK),
            unspent: PUTS_PER_CALL,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Returns the earliest deadline of a partition that still waits.
    fn first_deadline(&mut self) -> Option<Instant> {
        while let Some(request) = self.requests.first_entry() {
            if !request.get().is_closed() {
                return Some(request.key().0);
            }
            request.remove();
        }
        None
    }
}

impl Grant {
    /// Spends `writes`, which may be a few more than granted, and returns the rest.
    pub(crate) fn spend(mut self, writes: usize) {
        let mut state = self.budget.state();
        state.bucket.spend(writes.saturating_sub(self.unspent));
        state.writes += u64::try_from(writes).unwrap_or(u64::MAX);
        drop(state);
        self.unspent = self.unspent.saturating_sub(writes);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.budget.state().bucket.refund(self.unspent);
        self.budget.0.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_earliest_deadline_is_granted_first_and_what_is_not_spent_returns() {
        let budget = Budget::new(100.0);
        let now = Instant::now();
        let immediate = budget.acquire(now).await;
        assert!(immediate.until.is_none());
        budget.state().bucket.spend(1_000);
        let given_up = timeout_at(now.into(), budget.acquire(now)).await;
        assert!(given_up.is_err());
        let deadlines = [30, 10, 20].map(|ms| now + Duration::from_millis(ms));
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiting = deadlines.map(|deadline| {
            let (budget, order) = (budget.clone(), order.clone());
            tokio::spawn(async move {
                let grant = budget.acquire(deadline).await;
                order.lock().unwrap().push((deadline, grant.until));
            })
        });
        while budget.state().requests.len() < 3 {
            tokio::task::yield_now().await;
        }
        budget.state().bucket.refund(1_000);
        immediate.spend(1);
        let served = budget.clone();
        let serving = tokio::spawn(async move { served.serve().await });
        for task in waiting {
            task.await.unwrap();
        }
        let [third, first, second] = deadlines;
        let expected = [
            (first, Some(second + SLACK)),
            (second, Some(third + SLACK)),
            (third, None),
        ];
        assert_eq!(*order.lock().unwrap(), expected);
        assert_eq!(budget.usage().0, 1);
        serving.abort();
    }

    #[test]
    fn a_request_that_was_given_up_does_not_limit_the_next_grant() {
        let budget = Budget::new(100.0);
        let now = Instant::now();
        let (given_up, _) = oneshot::channel();
        let mut state = budget.state();
        state.requests.insert((now, 0), given_up);
        assert!(state.first_deadline().is_none());
        assert!(state.requests.is_empty());
    }

    #[test]
    fn a_rate_near_zero_is_looked_at_again() {
        let now = Instant::now();
        let mut bucket = Bucket::new(f64::MIN_POSITIVE, now);
        bucket.spend(PUTS_PER_CALL);
        assert_eq!(bucket.ready_at(now), now + MAX_WAIT);
    }
}
