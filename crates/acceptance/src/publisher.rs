//! A feed handler that sends a load in the background. It repeats batches that may not have arrived, and can go back to
//! an earlier position, as a producer does after Redis has lost its last second.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Pipeline, RedisResult, pipe};
use storage_core::config::redis::RedisConfig;
use storage_core::redis::connection::Connection;
use tokio::task::JoinHandle;

use crate::load::Load;

/// Maximum number of entries in a batch.
const BATCH: usize = 500;
/// Pause between two batches, and before a failed batch is sent again.
const PAUSE: Duration = Duration::from_millis(20);
/// Timeout of a reply, after which the batch is sent again over a new connection.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
/// Age up to which earlier positions are remembered.
const MEMORY: Duration = Duration::from_secs(120);

/// Rate at which entries are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// The rate that Redis accepts.
    Unlimited,
    /// Average number of entries per second; delays by faults are made up for.
    PerSecond(u32),
}

/// A task that sends a load. Dropping it ends the task.
#[derive(Debug)]
pub struct Publisher {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    /// Number of leading entries of the load that Redis has accepted.
    position: usize,
    /// Number of times that the position was set. The reply to a batch that was sent before such a change must not move
    /// the position.
    epoch: u64,
    total: usize,
    paused: bool,
    in_flight: bool,
    accepted: usize,
    failures: usize,
    /// Earlier positions with their times.
    reached: VecDeque<(Instant, usize)>,
}

impl Publisher {
    /// Starts sending `load` to the Redis of `config`.
    pub fn start(load: Arc<Load>, config: &RedisConfig, pace: Pace) -> Self {
        let state = Arc::new(Mutex::new(State {
            position: 0,
            epoch: 0,
            total: load.entries.len(),
            paused: false,
            in_flight: false,
            accepted: 0,
            failures: 0,
            reached: VecDeque::from([(Instant::now(), 0)]),
        }));
        let config = RedisConfig {
            connect_timeout: RESPONSE_TIMEOUT,
            response_timeout: RESPONSE_TIMEOUT,
            ..config.clone()
        };
        let task = tokio::spawn(publish(load, config, pace, Arc::clone(&state)));
        Self { state, task }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Returns the number of leading entries of the load that Redis has accepted.
    pub fn position(&self) -> usize {
        self.state().position
    }

    /// Returns the number of entries that Redis has accepted, including those that were sent again.
    pub fn accepted(&self) -> usize {
        self.state().accepted
    }

    /// Returns the number of batches that were refused or not answered.
    pub fn failures(&self) -> usize {
        self.state().failures
    }

    /// Returns the position at `time`, or the earliest one that is remembered.
    pub fn position_at(&self, time: Instant) -> usize {
        let state = self.state();
        let before = state.reached.iter().rev().find(|(reached, _)| *reached <= time);
        let known = before.or(state.reached.front());
        known.map_or(0, |(_, position)| *position)
    }

    /// Goes back to `position`, unless it is there or before it.
    pub fn rewind_to(&self, position: usize) {
        self.state().set(position);
    }

    /// Goes back to the position at `time`.
    pub fn rewind_to_time(&self, time: Instant) {
        let position = self.position_at(time);
        self.rewind_to(position);
    }

    /// Stops sending until [`resume`](Self::resume), and waits for the reply to the current batch.
    pub async fn pause(&self) {
        self.state().paused = true;
        while self.state().in_flight {
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Continues after [`pause`](Self::pause).
    pub fn resume(&self) {
        self.state().paused = false;
    }

    /// Returns an error with the position unless Redis has accepted all entries.
    pub fn done(&self) -> Result<(), String> {
        let state = self.state();
        match state.position == state.total {
            true => Ok(()),
            false => Err(format!("{} of {} entries sent", state.position, state.total)),
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl State {
    fn set(&mut self, position: usize) {
        self.epoch += 1;
        self.position = self.position.min(position);
        self.note();
    }

    fn note(&mut self) {
        let now = Instant::now();
        self.reached.push_back((now, self.position));
        while self.reached.front().is_some_and(|(reached, _)| now - *reached > MEMORY) {
            self.reached.pop_front();
        }
    }

    /// Returns the next entries to send, limited to those that are due after `elapsed`.
    fn next(&mut self, pace: Pace, elapsed: Duration) -> Option<(u64, std::ops::Range<usize>)> {
        let due = match pace {
            Pace::Unlimited => self.total,
            Pace::PerSecond(rate) => {
                usize::try_from(elapsed.as_millis() * u128::from(rate) / 1_000).unwrap_or(usize::MAX)
            }
        };
        let end = self.total.min(due).min(self.position + BATCH);
        if self.paused || end <= self.position {
            return None;
        }
        self.in_flight = true;
        Some((self.epoch, self.position..end))
    }

    fn answered(&mut self, epoch: u64, batch: &std::ops::Range<usize>, accepted: bool) {
        self.in_flight = false;
        if !accepted {
            self.failures += 1;
            return;
        }
        self.accepted += batch.len();
        if self.epoch == epoch {
            self.position = batch.end;
            self.note();
        }
    }
}

async fn publish(load: Arc<Load>, config: RedisConfig, pace: Pace, state: Arc<Mutex<State>>) {
    let mut connection = Connection::ordinary(&config);
    let begun = Instant::now();
    loop {
        let next = locked(&state).next(pace, begun.elapsed());
        let mut flat_out = false;
        if let Some((epoch, batch)) = next {
            let sent = send(&load, batch.clone(), &mut connection).await;
            locked(&state).answered(epoch, &batch, sent.is_ok());
            flat_out = sent.is_ok() && batch.len() == BATCH;
        }
        if !flat_out {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Sends the part of each stream as a transaction: at the memory limit Redis may refuse one entry and accept the next,
/// which would be out of order.
async fn send(load: &Load, batch: std::ops::Range<usize>, connection: &mut Connection) -> RedisResult<()> {
    let mut parts: BTreeMap<String, Pipeline> = BTreeMap::new();
    let entries = load.entries[batch.clone()].iter();
    let ticks = entries.map(|entry| (format!("stream:ticks:{}", entry.partition), entry.fields()));
    let from = load
        .heartbeats
        .partition_point(|heartbeat| heartbeat.before < batch.start);
    let heartbeats = load.heartbeats[from..]
        .iter()
        .take_while(|heartbeat| heartbeat.before < batch.end);
    let heartbeats = heartbeats.map(|heartbeat| ("stream:feeds".to_owned(), heartbeat.fields()));
    for (stream, fields) in ticks.chain(heartbeats) {
        let part = parts.entry(stream.clone()).or_insert_with(|| pipe().atomic().clone());
        let command = part.cmd("XADD").arg(stream).arg("*");
        for (name, value) in fields {
            command.arg(name).arg(value);
        }
        command.ignore();
    }
    for part in parts.values() {
        part.exec_async(connection).await?;
    }
    Ok(())
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State {
            position: 0,
            epoch: 0,
            total: 1_200,
            paused: false,
            in_flight: false,
            accepted: 0,
            failures: 0,
            reached: VecDeque::new(),
        }
    }

    fn send(state: &mut State) -> Option<(u64, std::ops::Range<usize>)> {
        state.next(Pace::Unlimited, Duration::ZERO)
    }

    #[test]
    fn what_was_not_accepted_is_sent_again() {
        let mut state = state();
        let (epoch, batch) = send(&mut state).unwrap();
        assert_eq!(batch, 0..500);
        state.answered(epoch, &batch, false);
        assert_eq!(send(&mut state).unwrap().1, 0..500);
        state.answered(epoch, &batch, true);
        assert_eq!(send(&mut state).unwrap().1, 500..1_000);
    }

    #[test]
    fn an_answer_to_a_batch_of_before_does_not_move_a_position_that_was_set_back() {
        let mut state = state();
        state.position = 700;
        let (epoch, batch) = send(&mut state).unwrap();
        state.set(100);
        state.answered(epoch, &batch, true);
        assert_eq!(send(&mut state).unwrap().1, 100..600);
        state.set(300);
        assert_eq!(state.position, 100, "it is never set forward");
    }

    #[test]
    fn no_more_is_sent_than_is_due_and_nothing_while_it_pauses() {
        let mut state = state();
        assert_eq!(state.next(Pace::PerSecond(100), Duration::from_millis(5)), None);
        let due = state.next(Pace::PerSecond(100), Duration::from_millis(50)).unwrap();
        assert_eq!(due.1, 0..5);
        state.paused = true;
        assert_eq!(send(&mut state), None);
    }
}
