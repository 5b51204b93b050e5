//! Waiting is asking again until a deadline, never sleeping for a fixed time.

use std::time::{Duration, Instant};

/// How long anything may take, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `ready` until it answers.
///
/// # Panics
/// When the time is up, with the last reason why not.
pub async fn until<T>(what: &str, ready: impl AsyncFnMut() -> Result<T, String>) -> T {
    until_within(PATIENCE, what, ready).await
}

/// As [`until`], with a deadline of its own.
///
/// # Panics
/// When the time is up, with the last reason why not.
pub async fn until_within<T>(patience: Duration, what: &str, mut ready: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        let reason = match ready().await {
            Ok(answer) => return answer,
            Err(reason) => reason,
        };
        assert!(Instant::now() < deadline, "{what}: not within {patience:?}: {reason}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
