//! Limits the rate of writes and decides which kind of candles is written next. Pure: times are passed in.
//!
//! [`WriteLimit`] is a token bucket: a write takes a token, and tokens return at the rate of the budget. 1-minute
//! candles are written while there are tokens; larger ones leave a reserve for them. Larger candles that are old get a
//! quarter of the writes, from the reserve, too.

use std::time::{Duration, Instant};

use storage_core::redis::hot::PUTS_PER_CALL;

use crate::queue::{Kind, WaitingSince};

/// Time for which unused tokens are kept: the longest time for which more than the rate is written.
const BURST: Duration = Duration::from_millis(250);

/// Time whose tokens are the reserve of 1-minute candles.
const RESERVE: Duration = Duration::from_millis(50);

/// Maximum time until the rate is looked at again.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Ratio of the age that is aimed at for larger timeframes to that for 1-minute candles.
const LARGER_FACTOR: u32 = 5;

/// Number of writes of 1-minute candles for each one of an old larger candle.
const MINUTES_PER_LARGER: usize = 3;

/// Number of writes of 1-minute candles in whose place it is the turn of old larger ones.
const MINUTES_PER_TURN: usize = MINUTES_PER_LARGER * PUTS_PER_CALL;

/// Limit of the writes of a replica. The number of tokens is negative after a call that took more than there were.
#[derive(Debug)]
pub(crate) struct WriteLimit {
    /// Writes per second.
    rate: f64,
    tokens: f64,
    at: Instant,
    /// Age from which larger candles are old.
    larger_age: Duration,
    /// Number of writes of 1-minute candles that old larger candles have not answered yet.
    minutes: usize,
}

impl WriteLimit {
    /// Creates a limit of `rate` writes per second, with a full bucket, for 1-minute candles whose aimed age is
    /// `max_age`.
    pub(crate) fn new(rate: f64, max_age: Duration, now: Instant) -> Self {
        Self {
            rate,
            tokens: rate * BURST.as_secs_f64(),
            at: now,
            larger_age: LARGER_FACTOR * max_age,
            minutes: 0,
        }
    }

    /// Sets the number of tokens that return per second, from `now` on.
    pub(crate) fn set_rate(&mut self, rate: f64, now: Instant) {
        self.refill(now);
        self.rate = rate;
    }

    /// Returns the kind that is written next, and the time from which that is allowed or from which to ask again;
    /// `None` if no candle waits.
    pub(crate) fn next(&mut self, waiting: WaitingSince, now: Instant) -> Option<(Kind, Instant)> {
        let is_due = |larger| self.minutes >= MINUTES_PER_TURN && now - larger >= self.larger_age;
        let reserve = RESERVE.as_secs_f64();
        let (kind, reserve) = match (waiting.minute, waiting.larger) {
            (_, Some(larger)) if is_due(larger) => (Kind::Larger, 0.0),
            (Some(_), _) => (Kind::Minute, 0.0),
            (None, Some(_)) => (Kind::Larger, reserve),
            (None, None) => return None,
        };
        self.refill(now);
        let wait = Duration::try_from_secs_f64((reserve - self.tokens / self.rate).max(0.0));
        Some((kind, now + wait.unwrap_or(MAX_WAIT).min(MAX_WAIT)))
    }

    /// Returns `true` if candles of both kinds may be written in one call.
    pub(crate) fn allows_all(&self) -> bool {
        self.tokens >= self.rate * RESERVE.as_secs_f64()
    }

    /// Takes the tokens of `writes`.
    pub(crate) fn spend(&mut self, writes: usize) {
        self.tokens -= f64::from(u32::try_from(writes).unwrap_or(u32::MAX));
    }

    /// Returns the tokens of `writes` that were not made.
    pub(crate) fn refund(&mut self, writes: usize) {
        self.tokens += f64::from(u32::try_from(writes).unwrap_or(u32::MAX));
    }

    /// Counts writes of one kind.
    pub(crate) fn count(&mut self, kind: Kind, writes: usize) {
        self.minutes = match kind {
            Kind::Minute => (self.minutes + writes).min(MINUTES_PER_TURN),
            Kind::Larger => self.minutes.saturating_sub(MINUTES_PER_LARGER * writes),
        };
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + elapsed * self.rate).min(self.rate * BURST.as_secs_f64());
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX_AGE: Duration = Duration::from_millis(50);

    fn waiting(minute: Option<Instant>, larger: Option<Instant>) -> WaitingSince {
        WaitingSince { minute, larger }
    }

    #[test]
    fn larger_candles_get_a_quarter_of_the_writes_once_they_are_old() {
        let now = Instant::now();
        let (young, old) = (now - MAX_AGE, now - LARGER_FACTOR * MAX_AGE);
        let larger_calls = |larger: Instant| {
            let mut limit = WriteLimit::new(1.0, MAX_AGE, now);
            let kinds = std::iter::repeat_with(|| {
                let (kind, _) = limit.next(waiting(Some(now), Some(larger)), now).unwrap();
                limit.count(kind, PUTS_PER_CALL);
                kind
            });
            kinds.take(40).filter(|kind| *kind == Kind::Larger).count()
        };
        assert_eq!([young, old].map(larger_calls), [0, 10]);
    }

    #[test]
    fn larger_candles_leave_a_reserve_for_one_minute_candles() {
        let now = Instant::now();
        let mut limit = WriteLimit::new(1_000.0, MAX_AGE, now);
        assert!(limit.allows_all());
        limit.spend(250);
        assert!(!limit.allows_all());
        assert_eq!(limit.next(waiting(None, None), now), None);
        assert_eq!(
            limit.next(waiting(Some(now), Some(now)), now),
            Some((Kind::Minute, now))
        );
        assert_eq!(
            limit.next(waiting(None, Some(now)), now),
            Some((Kind::Larger, now + RESERVE))
        );
        limit.spend(10);
        let wait = Duration::from_millis(10);
        assert_eq!(
            limit.next(waiting(Some(now), None), now),
            Some((Kind::Minute, now + wait))
        );
    }

    #[test]
    fn a_rate_near_zero_is_looked_at_again() {
        let now = Instant::now();
        let mut limit = WriteLimit::new(f64::MIN_POSITIVE, MAX_AGE, now);
        limit.spend(PUTS_PER_CALL);
        let next = limit.next(waiting(Some(now), None), now);
        assert_eq!(next, Some((Kind::Minute, now + MAX_WAIT)));
    }
}
