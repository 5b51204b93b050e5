//! The programs that come with the stores: run to their end, with their complaints in the error, ended when not waited for.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, anyhow};
use tokio::process::Command;

/// How much of a program's complaints an error shows.
const TAIL_LINES: usize = 12;

/// A program to run.
pub(crate) struct Tool {
    name: &'static str,
    command: Command,
}

impl Tool {
    /// The program `name` in `folder`, or in `PATH`. A folder of Valkey has it under Valkey's name.
    pub(crate) fn new(folder: Option<&Path>, name: &'static str) -> Self {
        let mut program = folder.map_or_else(|| name.into(), |folder| folder.join(name));
        let of_valkey = program.with_file_name(name.replacen("redis-", "valkey-", 1));
        if folder.is_some() && !program.exists() && of_valkey.exists() {
            program = of_valkey;
        }
        let mut command = Command::new(program);
        command.stdin(Stdio::null()).kill_on_drop(true);
        Self { name, command }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// A variable of the program's environment: the place for secrets, as everybody sees arguments.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs it to its end and returns what it printed.
    ///
    /// # Errors
    /// When it can't be run or fails; then with the end of what it printed.
    pub(crate) async fn run(mut self) -> anyhow::Result<String> {
        let name = self.name;
        let output = self.command.output().await.map_err(|error| missing(name, error))?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let complaints = String::from_utf8_lossy(&output.stderr);
        succeeded(
            name,
            output.status,
            if complaints.trim().is_empty() {
                &stdout
            } else {
                &complaints
            },
        )?;
        Ok(stdout.into_owned())
    }

    /// Starts it, with its output on this process' stderr when it fails.
    pub(crate) fn start(mut self) -> anyhow::Result<tokio::process::Child> {
        let name = self.name;
        self.command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| missing(name, error))
    }
}

/// What `--version` prints, in one line.
pub(crate) async fn version(folder: Option<&Path>, name: &'static str) -> anyhow::Result<String> {
    let printed = Tool::new(folder, name).arg("--version").run().await?;
    Ok(printed.lines().next().unwrap_or(name).trim().to_owned())
}

/// An error with the end of `output` unless the program succeeded.
pub(crate) fn succeeded(name: &str, status: ExitStatus, output: &str) -> anyhow::Result<()> {
    if status.success() {
        return Ok(());
    }
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    Err(anyhow!("{tail}")).context(format!("{name} failed ({status})"))
}

fn missing(name: &str, error: io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound if name.starts_with("redis-") => "; install Redis, or set `backup.redis_bin`",
        io::ErrorKind::NotFound => {
            "; install PostgreSQL's client and server programs of the server's major version, or set `backup.pg_bin`"
        }
        _ => "",
    };
    anyhow!("cannot run {name}: {error}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_missing_program_says_what_to_do() {
        let error = Tool::new(Some(Path::new("/nonexistent")), "pg_dump")
            .run()
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("backup.pg_bin"), "{error}");
    }

    #[tokio::test]
    async fn a_failure_shows_the_end_of_the_complaints() {
        let script = "seq 100 >&2; exit 3";
        let error = format!(
            "{:#}",
            Tool::new(None, "sh").args(["-c", script]).run().await.unwrap_err()
        );
        assert!(
            error.contains("sh failed (exit status: 3)") && error.ends_with("99\n100"),
            "{error}"
        );
        assert!(!error.contains("\n50\n"), "{error}");
    }
}
