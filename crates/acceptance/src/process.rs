//! The workers as processes of their own, which end with the suite, however that ends.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::http;
use crate::wait::{PATIENCE, until};

/// The top folder of the project.
pub fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Where cargo put a worker: beside this program, or, of a test, in the folder above.
///
/// # Panics
/// When it was not built.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of this program");
    let folders = test.ancestors().skip(1).take(2).map(|folder| folder.join(name));
    let program = folders.max_by_key(|program| program.exists()).expect("a target folder");
    assert!(
        program.exists(),
        "{} is missing; run `cargo build --workspace` first",
        program.display()
    );
    program
}

/// A command with nothing of the suite's own environment, killed by the kernel when the suite is gone.
pub fn command(program: &Path, environment: &[(String, String)]) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .env_clear()
        .kill_on_drop(true)
        .stdin(Stdio::null());
    let inherited = ["PATH", "HOME", "TMPDIR"]
        .into_iter()
        .filter_map(|name| Some((name, std::env::var_os(name)?)));
    command
        .envs(inherited)
        .envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

/// A command that ran to its end.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code, unless a signal ended it.
    pub code: Option<i32>,
    /// What it printed on stdout.
    pub stdout: String,
    /// What it printed on stderr.
    pub stderr: String,
}

impl Outcome {
    /// Whether it printed this, anywhere.
    pub fn says(&self, text: &str) -> bool {
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

/// A worker that runs.
#[derive(Debug)]
pub struct Worker {
    /// `hot-writer`, or `hot-writer 2`.
    pub name: String,
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts it; its output goes to a file in `folder`, after what an earlier one of its name wrote.
    ///
    /// # Panics
    /// When it can't be started.
    pub fn start(name: &str, arguments: &[&str], environment: &[(String, String)], folder: &Path) -> Self {
        let log = folder.join(format!(
            "{}.{}.log",
            name.replace(' ', "-"),
            fs::read_dir(folder).map_or(0, Iterator::count)
        ));
        let file = File::create(&log).expect("a log file");
        let crate_name = name.split(' ').next().unwrap_or(name);
        let child = command(&program(crate_name), environment)
            .args(arguments)
            .stdout(file.try_clone().expect("a log file"))
            .stderr(file)
            .spawn()
            .expect("a worker");
        Self {
            name: name.to_owned(),
            child,
            log,
        }
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    ///
    /// # Panics
    /// When the process is gone already.
    pub fn id(&self) -> u32 {
        self.child.id().expect("a running worker")
    }

    /// The port of its `/metrics`, which it chose and printed.
    pub async fn port(&mut self) -> u16 {
        until(&format!("the address of {}", self.name), async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("{} ended with {status}:\n{}", self.name, self.log());
            }
            port_in(&self.log()).ok_or_else(|| self.log())
        })
        .await
    }

    /// Waits until `/readyz` says so.
    pub async fn ready(&mut self) {
        let port = self.port().await;
        let name = self.name.clone();
        until(&format!("{name} is ready"), async || {
            match http::get(port, "/readyz").await? {
                (200, _) => Ok(()),
                (_, body) => Err(body),
            }
        })
        .await;
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// When the system does not say.
    pub fn end(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("to ask for its exit status")
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// When the process is gone already.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.id()).expect("a process id")), signal).expect("to signal it");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&mut self, patience: Duration) -> ExitStatus {
        match timeout(patience, self.child.wait()).await {
            Ok(status) => status.expect("its exit status"),
            Err(_) => panic!("{} still runs after {patience:?}:\n{}", self.name, self.log()),
        }
    }
}

/// Runs a program to its end.
///
/// # Panics
/// When it can't be started or does not end.
pub async fn run(program: &Path, arguments: &[&str], environment: &[(String, String)]) -> Outcome {
    let output = command(program, environment).args(arguments).output();
    let output = timeout(2 * PATIENCE, output)
        .await
        .unwrap_or_else(|_| panic!("{} {arguments:?} does not end", program.display()));
    output.expect("a program").into()
}

fn port_in(log: &str) -> Option<u16> {
    let line = log.lines().find(|line| line.contains("serving /metrics"))?;
    let address = line.split("127.0.0.1:").nth(1)?;
    let digits: String = address.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}
