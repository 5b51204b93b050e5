//! Polling with a deadline: a test waits for a condition, never for a fixed time.

use std::time::{Duration, Instant};

/// Deadline of every wait, long enough for a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Minimum pause between two attempts.
const MIN_PAUSE: Duration = Duration::from_millis(20);

/// Maximum pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Ratio of a pause to the duration of the attempt before it. An attempt may read a whole table, and must not take the
/// time of the server on whose work it waits.
const PAUSE_FACTOR: u32 = 4;

/// Calls `attempt` until it succeeds and returns its value; panics with the last error after [`PATIENCE`].
pub async fn until<T>(what: &str, attempt: impl AsyncFnMut() -> Result<T, String>) -> T {
    until_within(PATIENCE, what, attempt).await
}

/// Does the same as [`until`], with another deadline.
pub async fn until_within<T>(patience: Duration, what: &str, attempt: impl AsyncFnMut() -> Result<T, String>) -> T {
    match poll(patience, attempt).await {
        Ok(value) => value,
        Err(reason) => panic!("{what}: not within {patience:?}: {reason}"),
    }
}

/// Calls `condition` until it returns `true`; panics after [`PATIENCE`].
pub async fn until_true(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    until(what, async || match condition().await {
        true => Ok(()),
        false => Err("the condition is false".to_owned()),
    })
    .await;
}

/// Calls `attempt` until it succeeds or the time is up; returns its last result.
pub(super) async fn poll<T>(
    patience: Duration,
    mut attempt: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, String> {
    let deadline = Instant::now() + patience;
    loop {
        let begun = Instant::now();
        let result = attempt().await;
        if result.is_ok() || Instant::now() >= deadline {
            return result;
        }
        let pause = begun.elapsed() * PAUSE_FACTOR;
        tokio::time::sleep(pause.clamp(MIN_PAUSE, MAX_PAUSE)).await;
    }
}
