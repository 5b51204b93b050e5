//! Crash points: where a client is stopped, found in what it sends.

use tokio::sync::oneshot;

/// Where a client is stopped.
#[derive(Clone, Debug)]
pub struct Trap {
    /// What the client sends there. It may arrive in two pieces.
    pub pattern: Vec<u8>,
    /// The which of them, from 1.
    pub occurrence: usize,
    /// How much still passes.
    pub cut: Cut,
}

/// How much of a message passes before its connection stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// What stood before the pattern; the server never learns of the message.
    Before,
    /// Half of what was read together with the pattern and stood behind it: the message is torn, or is the last of a pipeline that is
    /// executed in part.
    Within,
    /// All that the client sends; the server has done it and answered, and the client does not get the answer.
    After,
}

/// Waits for a client to walk into a [`Trap`]. Dropping it disarms the trap.
#[derive(Debug)]
pub struct Snare(oneshot::Receiver<Held>);

impl Snare {
    pub(super) fn new(caught: oneshot::Receiver<Held>) -> Self {
        Self(caught)
    }

    /// Returns when a client was caught. Its connection stands still for as long as the answer is kept.
    ///
    /// # Errors
    /// When the proxy is gone.
    pub async fn caught(self) -> Result<Held, String> {
        self.0.await.map_err(|_| "the proxy is gone".to_owned())
    }
}

/// A connection that stands still. Dropping this cuts it.
#[derive(Debug)]
pub struct Held(oneshot::Sender<()>);

impl Held {
    pub(super) fn new(go_on: oneshot::Sender<()>) -> Self {
        Self(go_on)
    }

    /// Lets the connection go on as if nothing had been.
    pub fn go_on(self) {
        // An error says that the connection is cut already.
        let _ = self.0.send(());
    }
}

/// A trap that no client has walked into yet.
#[derive(Debug)]
pub(super) struct Armed {
    trap: Trap,
    left: usize,
    caught: oneshot::Sender<Held>,
}

/// A trap that a client has walked into with the bytes just read.
#[derive(Debug)]
pub(super) struct Sprung {
    /// How many of these bytes stand before the pattern.
    pub(super) start: usize,
    /// How many of these bytes there are up to the pattern's end.
    pub(super) end: usize,
    pub(super) cut: Cut,
    pub(super) caught: oneshot::Sender<Held>,
}

impl Armed {
    pub(super) fn new(trap: Trap, caught: oneshot::Sender<Held>) -> Self {
        let left = trap.occurrence.max(1);
        Self { trap, left, caught }
    }

    /// Counts the occurrences that end in `read`, which follows `earlier`; where the wanted one ends, if it does.
    fn count(&mut self, earlier: &[u8], read: &[u8]) -> Option<(usize, usize)> {
        let pattern = &self.trap.pattern;
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

/// Looks for the traps in `read`, the bytes that follow `earlier` on their connection, and takes the first that springs.
pub(super) fn spring(traps: &mut Vec<Armed>, earlier: &[u8], read: &[u8]) -> Option<Sprung> {
    traps.retain(|armed| !armed.caught.is_closed());
    let found = traps
        .iter_mut()
        .enumerate()
        .find_map(|(at, armed)| armed.count(earlier, read).map(|place| (at, place)));
    let (at, (start, end)) = found?;
    let armed = traps.remove(at);
    Some(Sprung {
        start,
        end,
        cut: armed.trap.cut,
        caught: armed.caught,
    })
}
