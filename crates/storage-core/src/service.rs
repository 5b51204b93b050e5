//! A process: [`main`] turns a command's result into an exit code, and [`Service`] owns every task
//! of a worker, from start to drain.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::Misconfigured;
use crate::config::service::ServiceConfig;

/// Exit code of a command that did what it was asked.
const DONE: u8 = 0;
/// Exit code of a command that failed.
const FAILED: u8 = 1;
/// Exit code of wrong usage or configuration (`EX_USAGE` of sysexits.h).
const MISUSED: u8 = 64;

/// How long an aborted process may still take to say so.
const ABORT_TIMEOUT: Duration = Duration::from_secs(1);

/// Work ended early because a shutdown was asked for. It is no failure: a command that ends with it
/// exits 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stopped, as a shutdown was asked for")
    }
}

impl std::error::Error for Stopped {}

/// Parses the command line, runs the command, and says on stderr what went wrong. Exit codes: 0 done
/// (also `--help`, `--version` and [`Stopped`]), 64 wrong usage or configuration ([`Misconfigured`]
/// anywhere in the error's chain), 1 everything else.
pub fn main<C: Parser>(command: impl AsyncFnOnce(C) -> anyhow::Result<()>) -> ExitCode {
    dispatch(std::env::args_os(), command).into()
}

fn dispatch<C: Parser>(
    args: impl IntoIterator<Item = OsString>,
    command: impl AsyncFnOnce(C) -> anyhow::Result<()>,
) -> u8 {
    match C::try_parse_from(args) {
        Ok(cli) => exit_code(run(cli, command)),
        Err(error) => {
            // A closed stdout or stderr is no reason for another exit code.
            let _ = error.print();
            if error.use_stderr() { MISUSED } else { DONE }
        }
    }
}

fn run<C>(cli: C, command: impl AsyncFnOnce(C) -> anyhow::Result<()>) -> anyhow::Result<()> {
    // Fails only if there is one already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the async runtime")?;
    let result = runtime.block_on(command(cli));
    // A thread that blocks must not keep an aborted process.
    runtime.shutdown_timeout(ABORT_TIMEOUT);
    result
}

#[allow(clippy::print_stderr)] // the one place that tells a person why the process ended
fn exit_code(result: anyhow::Result<()>) -> u8 {
    match result {
        Err(error) if !is_stop(&error) => {
            eprintln!("error: {error:#}");
            if Misconfigured::caused(&error) { MISUSED } else { FAILED }
        }
        _ => DONE,
    }
}

fn is_stop(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Stopped>())
}

/// The tasks of a worker. On SIGTERM or SIGINT its token is cancelled, and every task may finish what
/// it began within the grace period; a second signal aborts at once. A task that fails or panics
/// shuts the others down, too.
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
    /// A service without tasks, which listens to signals from now on: what a worker does before
    /// [`Self::run`], such as connecting, should watch [`Self::token`].
    ///
    /// # Errors
    /// If signals can't be listened to.
    pub fn new(config: &ServiceConfig) -> anyhow::Result<Self> {
        let service = Self::without_signals(config.shutdown_grace);
        abort_on_second_signal(service.shutdown.clone(), service.abort.clone())
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

    /// Cancelled when the worker is to shut down; cancelling it shuts the worker down.
    pub fn token(&self) -> CancellationToken {
        self.shutdown.clone()
    }

    /// Starts a task. It should watch [`Self::token`], and finish what it began once that is
    /// cancelled; ending with [`Stopped`] is as good as `Ok`.
    pub fn spawn(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.start(name.into(), false, task);
    }

    /// Starts a task that serves the others: it is aborted when all of them have ended.
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

    /// Waits until every task has ended, background tasks aside.
    ///
    /// # Errors
    /// The first failure of a task, or the names of the tasks that had to be aborted.
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

    /// What became of the task that ended.
    fn ended(&mut self, ended: Result<(Id, anyhow::Result<()>), JoinError>) -> anyhow::Result<()> {
        let (id, result) = match ended {
            Ok((id, result)) => (id, result),
            Err(error) => (error.id(), Err(panicked(error))),
        };
        let name = self.running.remove(&id).map_or("unknown".into(), |task| task.name);
        match result {
            Err(error) if !is_stop(&error) => Err(error.context(format!("task `{name}` failed"))),
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

/// Keeps the first failure, which the service ends with; of those that follow only the log tells.
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

/// The first signal cancels `shutdown`, the second `abort`. A process that has not ended shortly
/// after the second is ended, whatever it does.
fn abort_on_second_signal(shutdown: CancellationToken, abort: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let name = next().await;
        info!("{name}: finishing what was begun; a second signal aborts");
        shutdown.cancel();
        let name = next().await;
        warn!("{name}: aborting");
        abort.cancel();
        sleep(2 * ABORT_TIMEOUT).await;
        std::process::exit(FAILED.into());
    });
    Ok(())
}

#[cfg(test)]
mod tests;
