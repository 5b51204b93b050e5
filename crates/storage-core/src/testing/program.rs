//! The programs of this project as processes of a test: commands that end, and workers that run.
//!
//! ```no_run
//! # async fn example() {
//! use storage_core::testing::{program::Program, redis::TestRedis};
//!
//! let redis = TestRedis::prepared(2).await;
//! let program = Program::new("hot-writer").redis(&redis.config()).setting("stream.partitions=2");
//! let worker = program.start("one");
//! worker.ready().await;
//! assert_eq!(worker.metric("hot_writer_partitions_count").await, 2.0);
//! worker.stop().await;
//! # }
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{env, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::time::timeout;

use super::http::{self, Samples};
use super::polling::{PATIENCE, until, until_within};
use crate::config::postgres::PostgresConfig;
use crate::config::redis::RedisConfig;

/// Variables of the test's own environment that a program keeps.
const INHERITED: [&str; 3] = ["PATH", "HOME", "TMPDIR"];

/// A program and its environment, which inherits only `PATH`, `HOME` and `TMPDIR` from the test.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    environment: BTreeMap<String, String>,
}

impl Program {
    /// Returns a program of this workspace. Cargo puts it beside the test's program or one folder above.
    pub fn new(name: &str) -> Self {
        let test = env::current_exe().expect("the path of the test's program");
        let folders = test.ancestors().skip(1).take(2);
        let path = folders.map(|folder| folder.join(name)).find(|path| path.exists());
        Self::at(path.unwrap_or_else(|| panic!("no {name}; run `cargo build --workspace`")))
            .env("METRICS_LISTEN", "127.0.0.1:0")
            .env("NO_COLOR", "1")
    }

    /// Returns the program at `path`, with an empty environment.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            environment: BTreeMap::new(),
        }
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.insert(name.to_owned(), value.into());
        self
    }

    /// Sets environment variables.
    #[must_use]
    pub fn envs<N: Into<String>, V: Into<String>>(mut self, variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = variables.into_iter();
        self.environment
            .extend(variables.map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Sets a key of the configuration: `SECTION.KEY=VALUE`.
    #[must_use]
    pub fn setting(self, setting: &str) -> Self {
        let (key, value) = setting.split_once('=').expect("SECTION.KEY=VALUE");
        let variable = format!("STORAGE_{}", key.replace('.', "__").to_uppercase());
        self.env(&variable, value)
    }

    /// Sets the Redis that the program connects to.
    #[must_use]
    pub fn redis(self, config: &RedisConfig) -> Self {
        self.store("REDIS", config.url.expose(), config.password_file.as_deref())
    }

    /// Sets the database that the program connects to.
    #[must_use]
    pub fn database(self, config: &PostgresConfig) -> Self {
        self.store("DATABASE", config.url.expose(), config.password_file.as_deref())
    }

    fn store(self, name: &str, url: &str, password_file: Option<&Path>) -> Self {
        let this = self.env(&format!("{name}_URL"), url);
        match password_file {
            Some(file) => this.env(&format!("{name}_PASSWORD_FILE"), file.display().to_string()),
            None => this,
        }
    }

    /// Returns the command line, for a caller that needs the pipes. The kernel kills the process if the thread that
    /// started it ends first.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.path)
            .args(arguments)
            .env_clear()
            .envs(
                INHERITED
                    .into_iter()
                    .filter_map(|name| Some((name, env::var_os(name)?))),
            )
            .envs(&self.environment)
            .stdin(Stdio::null());
        command
    }

    /// Runs the program to its end on this thread.
    pub fn output(&self, arguments: &[&str]) -> Outcome {
        let output = self.command(arguments).output();
        output
            .unwrap_or_else(|error| panic!("{}: {error}", self.path.display()))
            .into()
    }

    /// Runs the program to its end while other tasks of this thread go on; panics if it takes more than twice
    /// [`PATIENCE`].
    pub async fn run(&self, arguments: &[&str]) -> Outcome {
        let mut command = tokio::process::Command::from(self.command(arguments));
        match timeout(2 * PATIENCE, command.kill_on_drop(true).output()).await {
            Ok(output) => output
                .unwrap_or_else(|error| panic!("{}: {error}", self.path.display()))
                .into(),
            Err(_) => panic!(
                "{} {arguments:?} still runs after {:?}",
                self.path.display(),
                2 * PATIENCE
            ),
        }
    }

    /// Starts `run` as the replica `instance`.
    pub fn start(&self, instance: &str) -> Worker {
        let folder = TempDir::new().expect("a temporary folder");
        let program = self.clone().setting(&format!("service.instance={instance}"));
        let mut worker = program.start_in(folder.path(), instance);
        worker.folder = Some(folder);
        worker
    }

    /// Starts `run`; its output goes to a new file in `folder`, which stays. Messages call the worker `name`.
    pub fn start_in(&self, folder: &Path, name: &str) -> Worker {
        let number = fs::read_dir(folder).map_or(0, Iterator::count);
        let log = folder.join(format!("{}.{number}.log", name.replace(' ', "-")));
        let file = File::create(&log).expect("a log file");
        let mut command = self.command(&["run"]);
        command.stdout(file.try_clone().expect("a log file")).stderr(file);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.path.display()));
        Worker {
            name: name.to_owned(),
            child: Mutex::new(child),
            log,
            folder: None,
        }
    }
}

/// Exit code and output of a program that ended.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` if a signal ended the program.
    pub code: Option<i32>,
    /// Output on stdout.
    pub stdout: String,
    /// Output on stderr.
    pub stderr: String,
}

impl Outcome {
    /// Returns `true` if stdout or stderr contains `text`.
    pub fn contains(&self, text: &str) -> bool {
        self.stdout.contains(text) || self.stderr.contains(text)
    }
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// A worker's process. Dropping it kills the process, and prints its log if the test panics.
#[derive(Debug)]
pub struct Worker {
    name: String,
    child: Mutex<Child>,
    log: PathBuf,
    folder: Option<TempDir>,
}

impl Worker {
    /// Returns the name of the worker in messages, such as `hot-writer 2`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns everything that the worker has written to stdout and stderr.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the log contains `text`.
    pub async fn logged(&self, text: &str) {
        until(&format!("{} logs `{text}`", self.name), async || match self.log() {
            log if log.contains(text) => Ok(()),
            log => Err(log),
        })
        .await;
    }

    /// Returns the process ID.
    pub fn id(&self) -> u32 {
        self.child().id()
    }

    /// Returns the port of the HTTP server, which the system chose and the worker logs.
    pub async fn port(&self) -> u16 {
        until(&format!("the port of {}", self.name), async || {
            if let Some(status) = self.exit_status() {
                panic!("{} ended with {status}:\n{}", self.name, self.log());
            }
            logged_port(&self.log()).ok_or_else(|| self.log())
        })
        .await
    }

    /// Returns status and body of `GET path`.
    pub async fn get(&self, path: &str) -> (u16, String) {
        let port = self.port().await;
        until(&format!("{path} of {}", self.name), async || {
            http::get(port, path).await
        })
        .await
    }

    /// Waits until `/readyz` returns 200.
    pub async fn ready(&self) {
        until(&format!("{} is ready", self.name), async || {
            match self.get("/readyz").await {
                (200, _) => Ok(()),
                (_, body) => Err(body),
            }
        })
        .await;
    }

    /// Returns the samples of `/metrics`.
    pub async fn metrics(&self) -> Samples {
        http::samples(&self.get("/metrics").await.1)
    }

    /// Returns the value of a metric, whose name includes its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let samples = self.metrics().await;
        let value = samples.get(name);
        *value.unwrap_or_else(|| panic!("{} has no metric {name}: {samples:#?}", self.name))
    }

    /// Returns the exit status; `None` while the worker runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.child().try_wait().expect("the status of a child")
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_raw(self.id().try_into().expect("a process ID"));
        kill(id, signal).unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.name));
    }

    /// Waits until the worker has ended.
    pub async fn ended(&self) -> ExitStatus {
        self.ended_within(PATIENCE).await
    }

    /// Waits until the worker has ended, with a deadline of its own.
    pub async fn ended_within(&self, patience: Duration) -> ExitStatus {
        until_within(patience, &format!("{} ends", self.name), async || {
            self.exit_status().ok_or_else(|| self.log())
        })
        .await
    }

    /// Sends SIGTERM and waits until the worker has ended; panics unless the exit code is 0.
    pub async fn stop(self) {
        self.signal(Signal::SIGTERM);
        let status = self.ended().await;
        assert!(status.success(), "{} ended with {status}", self.name);
    }

    /// Sends SIGKILL and waits until the worker has ended.
    pub async fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.ended().await;
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut child = self.child();
        // An error means that the process has ended already.
        let _ = child.kill();
        let _ = child.wait();
        drop(child);
        if thread::panicking() && self.folder.is_some() {
            eprintln!("log of {}:\n{}", self.name, self.log());
        }
    }
}

fn logged_port(log: &str) -> Option<u16> {
    let line = log.lines().find(|line| line.contains("serving /metrics"))?;
    let address = line.split("127.0.0.1:").nth(1)?;
    let digits: String = address.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
