//! Breakpoints: patterns in the requests of a client at which the proxy suspends its connection.

use tokio::sync::oneshot;

/// A pattern at which a client is suspended.
#[derive(Clone, Debug)]
pub struct Breakpoint {
    /// Bytes that the client sends. They may arrive in two reads.
    pub pattern: Vec<u8>,
    /// Number of the occurrence, from 1.
    pub occurrence: usize,
    /// Part of the message that is still delivered.
    pub delivered: Delivered,
}

/// Part of a message that is delivered before its connection is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// The bytes before the pattern: the server does not receive the message.
    Nothing,
    /// Half of the bytes read after the pattern: the message is truncated, or is the last of a pipeline that is
    /// executed in part.
    Part,
    /// The whole message: the server executes it and replies, and the reply is held back.
    All,
}

/// Waits for a client to reach a [`Breakpoint`]. Dropping it removes the breakpoint.
#[derive(Debug)]
pub struct PendingBreakpoint(oneshot::Receiver<SuspendedConnection>);

impl PendingBreakpoint {
    pub(super) fn new(reached: oneshot::Receiver<SuspendedConnection>) -> Self {
        Self(reached)
    }

    /// Waits until a client reaches the breakpoint. Its connection is suspended until the result is resumed or dropped.
    pub async fn reached(self) -> Result<SuspendedConnection, String> {
        self.0.await.map_err(|_| "the proxy is gone".to_owned())
    }
}

/// A suspended connection. Dropping it resets the connection.
#[derive(Debug)]
pub struct SuspendedConnection(oneshot::Sender<()>);

impl SuspendedConnection {
    pub(super) fn new(resume: oneshot::Sender<()>) -> Self {
        Self(resume)
    }

    /// Resumes the connection without loss.
    pub fn resume(self) {
        // An error means that the connection is closed already.
        let _ = self.0.send(());
    }
}

/// A breakpoint that no client has reached yet.
#[derive(Debug)]
pub(super) struct ActiveBreakpoint {
    breakpoint: Breakpoint,
    left: usize,
    reached: oneshot::Sender<SuspendedConnection>,
}

/// A breakpoint that a client has reached with the bytes just read.
#[derive(Debug)]
pub(super) struct Hit {
    /// Number of these bytes before the pattern.
    pub(super) start: usize,
    /// Number of these bytes up to the end of the pattern.
    pub(super) end: usize,
    pub(super) delivered: Delivered,
    pub(super) reached: oneshot::Sender<SuspendedConnection>,
}

impl ActiveBreakpoint {
    pub(super) fn new(breakpoint: Breakpoint, reached: oneshot::Sender<SuspendedConnection>) -> Self {
        let left = breakpoint.occurrence.max(1);
        Self {
            breakpoint,
            left,
            reached,
        }
    }

    /// Counts the occurrences that end in `read`, which follows `earlier`, and returns the place of the awaited one.
    fn count(&mut self, earlier: &[u8], read: &[u8]) -> Option<(usize, usize)> {
        let pattern = &self.breakpoint.pattern;
        let kept = earlier.len().min(pattern.len().saturating_sub(1));
        let text = [&earlier[earlier.len() - kept..], read].concat();
        for (at, window) in text.windows(pattern.len()).enumerate() {
            if window != pattern {
                continue;
            }
            self.left -= 1;
            if self.left == 0 {
                return Some((at.saturating_sub(kept), at + pattern.len() - kept));
            }
        }
        None
    }
}

/// Finds and removes the first breakpoint that is reached by `read`, the bytes that follow `earlier` on their
/// connection.
pub(super) fn find_hit(breakpoints: &mut Vec<ActiveBreakpoint>, earlier: &[u8], read: &[u8]) -> Option<Hit> {
    breakpoints.retain(|active| !active.reached.is_closed());
    let found = breakpoints
        .iter_mut()
        .enumerate()
        .find_map(|(at, active)| active.count(earlier, read).map(|place| (at, place)));
    let (at, (start, end)) = found?;
    let active = breakpoints.remove(at);
    Some(Hit {
        start,
        end,
        delivered: active.breakpoint.delivered,
        reached: active.reached,
    })
}
