//! Tries again for as long as it takes: a store that is down is waited for, not crashed on.

use std::borrow::Cow;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::Misconfigured;
use crate::service::Stopped;
use crate::telemetry::readiness::Readiness;

/// Shortest and longest pause between two attempts, before jitter.
const DELAYS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A failure that lasts is logged again after this time, and after growing ones up to the second.
const LOG_INTERVALS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// Repeats an operation with exponential backoff and jitter until it succeeds, fails for good, or a
/// shutdown is asked for.
#[derive(Debug)]
pub struct Retry<'a> {
    what: Cow<'static, str>,
    token: &'a CancellationToken,
    readiness: Option<(&'a Readiness, Cow<'static, str>)>,
    is_permanent: fn(&anyhow::Error) -> bool,
}

impl<'a> Retry<'a> {
    /// `what` is done, such as "connecting to Redis"; cancelling `token` ends the attempts.
    pub fn new(what: impl Into<Cow<'static, str>>, token: &'a CancellationToken) -> Self {
        Self {
            what: what.into(),
            token,
            readiness: None,
            is_permanent: Misconfigured::caused,
        }
    }

    /// Sets `condition` after each attempt. The error's text shows on `/readyz` then.
    pub fn readiness(mut self, readiness: &'a Readiness, condition: impl Into<Cow<'static, str>>) -> Self {
        self.readiness = Some((readiness, condition.into()));
        self
    }

    /// Which errors no retry helps against; without this, those caused by [`Misconfigured`].
    pub fn permanent_if(mut self, is_permanent: fn(&anyhow::Error) -> bool) -> Self {
        self.is_permanent = is_permanent;
        self
    }

    /// Runs `operation` until it succeeds. An attempt that has begun is never dropped, as it may be
    /// inside a transaction; it should have a timeout of its own.
    ///
    /// # Errors
    /// The operation's error if it is permanent; [`Stopped`] if the token was cancelled.
    pub async fn run<T, E, F>(self, mut operation: impl FnMut() -> F) -> anyhow::Result<T>
    where
        E: Into<anyhow::Error>,
        F: Future<Output = Result<T, E>>,
    {
        let mut delays = ExponentialBuilder::new()
            .with_min_delay(DELAYS.0)
            .with_max_delay(DELAYS.1)
            .with_jitter()
            .without_max_times()
            .build();
        let begin = Instant::now();
        let mut attempts: u32 = 0;
        let mut log = LogSchedule::default();
        while !self.token.is_cancelled() {
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
            if (self.is_permanent)(&error) || error.is::<Stopped>() {
                return Err(error);
            }
            if log.is_due(begin.elapsed()) {
                warn!(attempts, "{} failed, trying again: {error:#}", self.what);
            }
            let delay = delays.next().unwrap_or(DELAYS.1);
            let _ = self.token.run_until_cancelled(sleep(delay)).await;
        }
        Err(Stopped.into())
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

/// Keeps `operation`, which lasts, running until `token` is cancelled: begins it again whenever it fails, at once and then after
/// growing intervals. It says itself, as `condition`, when it is ready; here it is said when it is not.
pub async fn keep_running<F>(
    condition: impl Into<Cow<'static, str>>,
    readiness: &Readiness,
    token: &CancellationToken,
    mut operation: impl FnMut() -> F,
) where
    F: Future<Output = anyhow::Result<()>>,
{
    let condition = condition.into();
    let mut delay = DELAYS.0;
    while !token.is_cancelled() {
        let begin = Instant::now();
        let Err(error) = operation().await else { continue };
        warn!("{condition} failed, beginning again: {error:#}");
        readiness.fail(condition.clone(), format_args!("{error:#}"));
        delay = if begin.elapsed() > DELAYS.1 {
            DELAYS.0
        } else {
            (delay * 2).min(DELAYS.1)
        };
        let _ = token.run_until_cancelled(sleep(delay)).await;
    }
}

/// Which failures are logged: the first, then with intervals that double.
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
    /// Whether a failure at this time since the first attempt is logged.
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
    use std::convert::Infallible;
    use std::io;

    use anyhow::anyhow;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_retried_until_it_works_and_shows_in_readiness() {
        let token = CancellationToken::new();
        let readiness = Readiness::waiting_for(["redis"]);
        let attempts = Cell::new(0);
        let result = Retry::new("connecting", &token)
            .readiness(&readiness, "redis")
            .run(async || {
                attempts.set(attempts.get() + 1);
                match attempts.get() {
                    1 => {
                        assert_eq!(readiness.problems(), ["redis: not yet"]);
                        Err(io::Error::other("refused"))
                    }
                    50 => Ok("connected"),
                    _ => {
                        assert_eq!(readiness.problems(), ["redis: refused"]);
                        Err(io::Error::other("refused"))
                    }
                }
            })
            .await;
        assert_eq!(result.unwrap(), "connected");
        assert!(readiness.problems().is_empty());
    }

    #[tokio::test]
    async fn a_permanent_error_ends_the_attempts() {
        let token = CancellationToken::new();
        let misconfigured = || anyhow::Error::from(Misconfigured::new("wrong")).context("reading");
        let result = Retry::new("reading", &token)
            .run(async || Err::<(), _>(misconfigured()))
            .await;
        assert!(Misconfigured::caused(&result.unwrap_err()));

        let result = Retry::new("reading", &token)
            .permanent_if(|error| error.to_string() == "denied")
            .run(async || Err::<(), _>(anyhow!("denied")))
            .await;
        assert_eq!(result.unwrap_err().to_string(), "denied");
    }

    #[tokio::test(start_paused = true)]
    async fn a_shutdown_ends_the_pause_but_not_an_attempt() {
        let token = CancellationToken::new();
        let finished = Cell::new(0);
        let begin = Instant::now();
        let retry = Retry::new("connecting", &token).run(async || {
            sleep(Duration::from_secs(10)).await;
            finished.set(finished.get() + 1);
            Err::<(), _>(io::Error::other("refused"))
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
    async fn after_a_shutdown_nothing_is_attempted() {
        let token = CancellationToken::new();
        token.cancel();
        let result = Retry::new("connecting", &token)
            .run(async || -> Result<(), Infallible> { panic!("attempted") })
            .await;
        assert!(result.unwrap_err().is::<Stopped>());
    }

    #[test]
    fn a_lasting_failure_is_logged_ever_more_rarely() {
        let mut log = LogSchedule::default();
        let due: Vec<u64> = (0..1000).filter(|s| log.is_due(Duration::from_secs(*s))).collect();
        assert_eq!(due, [0, 5, 15, 35, 75, 155, 315, 615, 915]);
    }
}
