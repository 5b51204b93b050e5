//! A worker's tasks: [`Service`] owns each of them, from its start to its end after SIGTERM or SIGINT.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, anyhow};
use futures::stream::{Stream, StreamExt, poll_fn};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::service::ServiceConfig;

/// Exit code of a process that was still running some time after it was aborted.
const ABORTED: i32 = 1;
/// Time for an aborted process to report its end.
pub(crate) const ABORT_TIMEOUT: Duration = Duration::from_secs(1);
/// A signal this soon after another is the same request: process managers send it to the group and to the process.
const SAME_REQUEST: Duration = Duration::from_millis(500);

/// Work that ended early because of a shutdown. It is no failure: a command that ends with it exits 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("stopped by a shutdown")]
pub struct Stopped;

impl Stopped {
    /// Returns `true` if `error` or one of its causes is [`Stopped`].
    pub fn caused(error: &anyhow::Error) -> bool {
        error.chain().any(|cause| cause.is::<Self>())
    }
}

/// The tasks of a worker. SIGTERM or SIGINT cancels the token, and every task may finish its current work within the
/// grace period; a second signal, more than half a second later, aborts the tasks. A task that fails or panics shuts
/// the others down, too.
#[derive(Debug)]
pub struct Service {
    tasks: JoinSet<anyhow::Result<()>>,
    running: HashMap<Id, Task>,
    shutdown: CancellationToken,
    abort: CancellationToken,
    grace: Duration,
}

#[derive(Debug)]
struct Task {
    name: Cow<'static, str>,
    background: bool,
}

impl Service {
    /// Creates a service without tasks, which listens to signals from now on. Work before [`Self::run`], such as
    /// connecting, should watch [`Self::token`].
    pub fn new(config: &ServiceConfig) -> anyhow::Result<Self> {
        let service = Self::without_signals(config.shutdown_grace);
        listen_to_signals(service.shutdown.clone(), service.abort.clone())
            .context("listening to SIGTERM and SIGINT")?;
        Ok(service)
    }

    fn without_signals(grace: Duration) -> Self {
        Self {
            tasks: JoinSet::new(),
            running: HashMap::new(),
            shutdown: CancellationToken::new(),
            abort: CancellationToken::new(),
            grace,
        }
    }

    /// Returns the token that a shutdown cancels; cancelling it shuts the worker down.
    pub fn token(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a task. It should watch [`Self::token`], and finish its current work once that is cancelled. [`Stopped`]
    /// counts as success.
    pub fn spawn(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.start(name.into(), false, task);
    }

    /// Starts a task that is aborted when all others have ended.
    pub fn spawn_background(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.start(name.into(), true, task);
    }

    fn start(
        &mut self,
        name: Cow<'static, str>,
        background: bool,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let id = self.tasks.spawn(task).id();
        self.running.insert(id, Task { name, background });
    }

    /// Waits until every task but the background tasks has ended.
    ///
    /// # Errors
    /// The first failure of a task, or the names of the tasks that were aborted.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let (shutdown, abort, grace) = (self.shutdown.clone(), self.abort.clone(), self.grace);
        let grace_over = async move {
            shutdown.cancelled().await;
            sleep(grace).await;
        };
        tokio::pin!(grace_over);
        let mut first_failure = None;
        while self.running.values().any(|task| !task.background) {
            tokio::select! {
                biased;
                () = abort.cancelled() => return Err(self.aborted("a second signal came")),
                () = &mut grace_over => {
                    let aborted = self.aborted(&format!("the grace period of {grace:?} is over"));
                    note(&mut first_failure, aborted);
                    break;
                }
                Some(ended) = self.tasks.join_next_with_id() => {
                    if let Err(failure) = self.ended(ended) {
                        self.shutdown.cancel();
                        note(&mut first_failure, failure);
                    }
                }
            }
        }
        self.shutdown.cancel();
        self.tasks.abort_all();
        match first_failure {
            Some(failure) => Err(failure),
            None => {
                info!("every task has ended");
                Ok(())
            }
        }
    }

    /// Returns the result of a task that ended, with its name.
    fn ended(&mut self, ended: Result<(Id, anyhow::Result<()>), JoinError>) -> anyhow::Result<()> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(panicked(error))),
        };
        let name = self.running.remove(&id).map_or("unknown".into(), |task| task.name);
        match result {
            Err(error) if !Stopped::caused(&error) => Err(error.context(format!("task `{name}` failed"))),
            _ => {
                info!(task = %name, "task has ended");
                Ok(())
            }
        }
    }

    fn aborted(&mut self, reason: &str) -> anyhow::Error {
        self.tasks.abort_all();
        let mut names: Vec<&str> = self
            .running
            .values()
            .filter(|task| !task.background)
            .map(|task| task.name.as_ref())
            .collect();
        names.sort_unstable();
        anyhow!("{reason}; aborted while still running: {}", names.join(", "))
    }
}

/// Keeps the first failure, which the service ends with, and logs each.
fn note(first_failure: &mut Option<anyhow::Error>, failure: anyhow::Error) {
    if first_failure.is_some() {
        error!("{failure:#}");
    } else {
        error!("{failure}; shutting down");
        *first_failure = Some(failure);
    }
}

fn panicked(error: JoinError) -> anyhow::Error {
    match error.try_into_panic() {
        Ok(payload) => anyhow!("panicked: {}", panic_message(payload.as_ref())),
        Err(_) => anyhow!("aborted"),
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Ends the process shortly after it was aborted, even if a task blocks its thread.
fn listen_to_signals(shutdown: CancellationToken, abort: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let signals = poll_fn(move |context| {
        let terminate = terminate.poll_recv(context).map(|_| Some("SIGTERM"));
        if terminate.is_ready() {
            terminate
        } else {
            interrupt.poll_recv(context).map(|_| Some("SIGINT"))
        }
    });
    tokio::spawn(async move {
        obey(signals, &shutdown, &abort).await;
        sleep(2 * ABORT_TIMEOUT).await;
        std::process::exit(ABORTED);
    });
    Ok(())
}

/// Cancels `shutdown` at the first signal, and `abort` at the next one that is not the same request.
async fn obey(
    mut signals: impl Stream<Item = &'static str> + Unpin,
    shutdown: &CancellationToken,
    abort: &CancellationToken,
) {
    let Some(name) = signals.next().await else { return };
    let begin = Instant::now();
    info!("{name}: finishing the current work; a second signal aborts it");
    shutdown.cancel();
    while let Some(name) = signals.next().await {
        if begin.elapsed() > SAME_REQUEST {
            warn!("{name}: aborting");
            return abort.cancel();
        }
    }
}

#[cfg(test)]
mod tests;
