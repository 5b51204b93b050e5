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
    pub fn readiness(
        mut self,
        readiness: &'a Readiness,
        condition: impl Into<Cow<'static, str>>,
    ) -> Self {
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
