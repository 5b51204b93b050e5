//! Retries: [`Retry`] repeats an operation until it succeeds, [`keep_running`] restarts one that lasts, [`Backoff`] is
//! the pause between two attempts.

use std::borrow::Cow;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::error_class::ErrorClass;
use crate::service::Stopped;
use crate::telemetry::readiness::Readiness;

/// Shortest and longest pause between two attempts, before jitter.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Intervals between two log lines of a lasting failure: they double from the first to the second.
const LOG_INTERVALS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Pauses that double from the shortest to the longest. Jitter extends each by up to its own length.
#[derive(Debug)]
pub struct Backoff {
    shape: ExponentialBuilder,
    pauses: ExponentialBackoff,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::between(PAUSES.0, PAUSES.1)
    }
}

impl Backoff {
    /// Creates a back-off whose pauses grow from `shortest` to `longest`.
    pub fn between(shortest: Duration, longest: Duration) -> Self {
        let shape = ExponentialBuilder::new()
            .with_min_delay(shortest.min(longest))
            .with_max_delay(longest)
            .with_jitter()
            .without_max_times();
        Self {
            shape,
            pauses: shape.build(),
            longest,
        }
    }

    /// Returns the pause before the next attempt.
    pub fn pause(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.longest)
    }

    /// Starts again with the shortest pause.
    pub fn reset(&mut self) {
        self.pauses = self.shape.build();
    }
}

/// Repeats an operation until it succeeds, fails with an error that is not retried, or a shutdown is requested.
#[derive(Debug)]
pub struct Retry<'a> {
    what: Cow<'static, str>,
    token: &'a CancellationToken,
    readiness: Option<(&'a Readiness, Cow<'static, str>)>,
    retries_every_error: bool,
    starts_anyway: bool,
    limit: Option<Duration>,
}

impl<'a> Retry<'a> {
    /// Creates a retry of the operation that logs call `what`, such as "connecting to Redis". Only errors of the class
    /// [`Transient`](ErrorClass::Transient) are retried. Cancelling `token` ends the attempts.
    pub fn new(what: impl Into<Cow<'static, str>>, token: &'a CancellationToken) -> Self {
        Self {
            what: what.into(),
            token,
            readiness: None,
            retries_every_error: false,
            starts_anyway: false,
            limit: None,
        }
    }

    /// Sets `condition` after each attempt: `/readyz` shows the error's text.
    pub fn readiness(mut self, readiness: &'a Readiness, condition: impl Into<Cow<'static, str>>) -> Self {
        self.readiness = Some((readiness, condition.into()));
        self
    }

    /// Retries after every error. A running worker uses it, because an operator may correct a password or a schema.
    pub fn every_error(mut self) -> Self {
        self.retries_every_error = true;
        self
    }

    /// Makes the first attempt even if the token is cancelled already, so that a batch that was started is finished.
    pub fn start_anyway(mut self) -> Self {
        self.starts_anyway = true;
        self
    }

    /// Makes no further attempt after this time.
    pub fn within(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Runs `operation` until it succeeds. An attempt that was started is never dropped, because it may be inside a
    /// transaction; it should have a timeout of its own.
    ///
    /// # Errors
    /// The operation's error if it is not retried; [`Stopped`] if the token was cancelled.
    pub async fn run<T, E, F>(self, mut operation: impl FnMut() -> F) -> anyhow::Result<T>
    where
        E: Into<anyhow::Error>,
        F: Future<Output = Result<T, E>>,
    {
        let mut backoff = Backoff::default();
        let begin = Instant::now();
        let mut attempts: u32 = 0;
        let mut log = LogSchedule::default();
        while !self.token.is_cancelled() || (self.starts_anyway && attempts == 0) {
            attempts = attempts.saturating_add(1);
            let error: anyhow::Error = match operation().await {
                Ok(value) => {
                    self.succeeded(attempts, begin.elapsed());
                    return Ok(value);
                }
                Err(error) => error.into(),
            };
            if let Some((readiness, condition)) = &self.readiness {
                readiness.fail(condition.clone(), format_args!("{error:#}"));
            }
            let is_over = self.limit.is_some_and(|limit| begin.elapsed() >= limit);
            if is_over || Stopped::caused(&error) || !self.retries(&error) {
                return Err(error);
            }
            if log.is_due(begin.elapsed()) {
                warn!(attempts, "{} failed, trying again: {error:#}", self.what);
            }
            let pause = match self.limit {
                Some(limit) => backoff.pause().min(limit.saturating_sub(begin.elapsed())),
                None => backoff.pause(),
            };
            let _ = self.token.run_until_cancelled(sleep(pause)).await;
        }
        Err(Stopped.into())
    }

    fn retries(&self, error: &anyhow::Error) -> bool {
        self.retries_every_error || ErrorClass::of(error) == ErrorClass::Transient
    }

    fn succeeded(&self, attempts: u32, elapsed: Duration) {
        if let Some((readiness, condition)) = &self.readiness {
            readiness.ok(condition.clone());
        }
        if attempts > 1 {
            info!(
                attempts,
                seconds = elapsed.as_secs_f64(),
                "{} succeeded again",
                self.what
            );
        }
    }
}

/// Restarts `operation` whenever it ends, until `token` is cancelled: immediately after a success, after a [`Backoff`]
/// after a failure of any class. The operation sets `condition` when it is ready; a failure clears it.
pub async fn keep_running<F>(
    condition: impl Into<Cow<'static, str>>,
    readiness: &Readiness,
    token: &CancellationToken,
    mut operation: impl FnMut() -> F,
) where
    F: Future<Output = anyhow::Result<()>>,
{
    let condition = condition.into();
    let mut backoff = Backoff::default();
    let mut log = LogSchedule::default();
    let mut failing_since = Instant::now();
    while !token.is_cancelled() {
        let begin = Instant::now();
        let Err(error) = operation().await else { continue };
        readiness.fail(condition.clone(), format_args!("{error:#}"));
        if begin.elapsed() > PAUSES.1 {
            backoff.reset();
            log = LogSchedule::default();
            failing_since = Instant::now();
        }
        if log.is_due(failing_since.elapsed()) {
            warn!("{condition} failed, restarting: {error:#}");
        }
        let _ = token.run_until_cancelled(sleep(backoff.pause())).await;
    }
}

/// Selects the failures that are logged: the first, then with intervals that double.
#[derive(Debug)]
struct LogSchedule {
    next: Duration,
    interval: Duration,
}

impl Default for LogSchedule {
    fn default() -> Self {
        Self {
            next: Duration::ZERO,
            interval: LOG_INTERVALS.0,
        }
    }
}

impl LogSchedule {
    /// Returns `true` if a failure at this time since the first one is logged.
    fn is_due(&mut self, elapsed: Duration) -> bool {
        if elapsed < self.next {
            return false;
        }
        self.next = elapsed + self.interval;
        self.interval = (2 * self.interval).min(LOG_INTERVALS.1);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io;

    use anyhow::anyhow;
    use redis::RedisError;

    use super::*;
    use crate::config::Misconfigured;

    fn refused() -> RedisError {
        io::Error::other("refused").into()
    }

    #[tokio::test(start_paused = true)]
    async fn a_transient_failure_is_retried_until_it_passes_and_shows_in_readiness() {
        let token = CancellationToken::new();
        let readiness = Readiness::waiting_for(["redis"]);
        let attempts = Cell::new(0);
        let result = Retry::new("connecting", &token)
            .readiness(&readiness, "redis")
            .run(async || {
                attempts.set(attempts.get() + 1);
                match attempts.get() {
                    1 => assert_eq!(readiness.problems(), ["redis: not yet"]),
                    50 => return Ok("connected"),
                    _ => assert!(readiness.problems()[0].contains("refused")),
                }
                Err(refused())
            })
            .await;
        assert_eq!(result.unwrap(), "connected");
        assert!(readiness.problems().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_of_another_class_is_retried_only_where_every_error_is() {
        let token = CancellationToken::new();
        let misconfigured = || anyhow::Error::from(Misconfigured::new("wrong")).context("reading");
        let result = Retry::new("reading", &token)
            .run(async || Err::<(), _>(misconfigured()))
            .await;
        assert_eq!(format!("{:#}", result.unwrap_err()), "reading: wrong");

        let attempts = Cell::new(0);
        let result = Retry::new("reading", &token)
            .every_error()
            .run(async || {
                attempts.set(attempts.get() + 1);
                if attempts.get() == 3 {
                    Ok(())
                } else {
                    Err(misconfigured())
                }
            })
            .await;
        assert_eq!((result.is_ok(), attempts.get()), (true, 3));
    }

    #[tokio::test(start_paused = true)]
    async fn the_limit_ends_the_attempts_with_the_last_error() {
        let token = CancellationToken::new();
        let begin = Instant::now();
        let result = Retry::new("connecting", &token)
            .within(Duration::from_secs(30))
            .run(async || Err::<(), _>(refused()))
            .await;
        assert!(result.unwrap_err().to_string().contains("refused"));
        assert_eq!(begin.elapsed(), Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_ends_the_pause_but_not_an_attempt() {
        let token = CancellationToken::new();
        let finished = Cell::new(0);
        let begin = Instant::now();
        let retry = Retry::new("connecting", &token).run(async || {
            sleep(Duration::from_secs(10)).await;
            finished.set(finished.get() + 1);
            Err::<(), _>(refused())
        });
        let shutdown = async {
            sleep(Duration::from_secs(1)).await;
            token.cancel();
        };
        let (result, ()) = tokio::join!(retry, shutdown);
        assert!(result.unwrap_err().is::<Stopped>());
        assert_eq!((finished.get(), begin.elapsed()), (1, Duration::from_secs(10)));
    }

    #[tokio::test]
    async fn after_a_shutdown_only_work_that_was_started_is_attempted() {
        let token = CancellationToken::new();
        token.cancel();
        let attempts = Cell::new(0);
        let mut attempt = async || {
            attempts.set(attempts.get() + 1);
            Err::<(), _>(refused())
        };
        let result = Retry::new("connecting", &token).run(&mut attempt).await;
        assert!(result.unwrap_err().is::<Stopped>());
        assert_eq!(attempts.get(), 0);
        let result = Retry::new("adding", &token).start_anyway().run(&mut attempt).await;
        assert!(result.unwrap_err().is::<Stopped>());
        assert_eq!(attempts.get(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_that_fails_is_restarted_with_growing_pauses() {
        let (token, readiness) = (CancellationToken::new(), Readiness::default());
        let starts = Cell::new(0);
        let begin = Instant::now();
        keep_running("reading", &readiness, &token, async || {
            starts.set(starts.get() + 1);
            if starts.get() == 20 {
                token.cancel();
            }
            Err(anyhow!("refused"))
        })
        .await;
        assert_eq!(readiness.problems(), ["reading: refused"]);
        let elapsed = begin.elapsed().as_secs();
        assert!((60..150).contains(&elapsed), "{elapsed}");
    }

    #[test]
    fn pauses_double_to_the_longest_and_start_again_after_a_reset() {
        let seconds = Duration::from_secs;
        let mut backoff = Backoff::between(seconds(5), seconds(300));
        for shortest in [5, 10, 20, 40, 80, 160, 300, 300] {
            let pause = backoff.pause();
            assert!(
                (seconds(shortest)..=seconds(2 * shortest)).contains(&pause),
                "{pause:?}"
            );
        }
        backoff.reset();
        assert!(backoff.pause() <= seconds(10));
        assert!(Backoff::between(seconds(5), seconds(1)).pause() <= seconds(2));
    }

    #[test]
    fn a_lasting_failure_is_logged_ever_more_rarely() {
        let mut log = LogSchedule::default();
        let due: Vec<u64> = (0..1000).filter(|s| log.is_due(Duration::from_secs(*s))).collect();
        assert_eq!(due, [0, 5, 15, 35, 75, 155, 315, 615, 915]);
    }
}
