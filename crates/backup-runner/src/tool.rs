//! Runs the programs that come with Redis and PostgreSQL. Their error output becomes part of the error.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};

use anyhow::{Context, anyhow};
use tokio::process::Command;

/// Number of lines of a program's output that an error contains.
const TAIL_LINES: usize = 12;

/// Program to run; it is killed when the future that waits for it is dropped.
pub(crate) struct Tool {
    name: &'static str,
    command: Command,
}

impl Tool {
    /// Returns the program `name` in `folder` or, without one, in `PATH`. In a folder of Valkey, `redis-…` is found as
    /// `valkey-…`.
    pub(crate) fn new(folder: Option<&Path>, name: &'static str) -> Self {
        let mut program = folder.map_or_else(|| name.into(), |folder| folder.join(name));
        let in_valkey = program.with_file_name(name.replacen("redis-", "valkey-", 1));
        if folder.is_some() && !program.exists() && in_valkey.exists() {
            program = in_valkey;
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

    /// Sets a variable of the program's environment. Secrets belong here: other users can read a process's arguments.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs the program and returns its standard output.
    pub(crate) async fn run(mut self) -> anyhow::Result<String> {
        let name = self.name;
        let output = self.command.output().await.map_err(|error| missing(name, error))?;
        let stdout = String::from_utf8_lossy(&output.stdout);
        let stderr = String::from_utf8_lossy(&output.stderr);
        let shown = if stderr.trim().is_empty() { &stdout } else { &stderr };
        succeeded(name, output.status, shown)?;
        Ok(stdout.into_owned())
    }

    /// Starts the program without waiting. Its error output is piped to the caller.
    pub(crate) fn start(mut self) -> anyhow::Result<tokio::process::Child> {
        let name = self.name;
        self.command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| missing(name, error))
    }
}

/// Returns the first line that the program prints for `--version`.
pub(crate) async fn version(folder: Option<&Path>, name: &'static str) -> anyhow::Result<String> {
    let printed = Tool::new(folder, name).arg("--version").run().await?;
    Ok(printed.lines().next().unwrap_or(name).trim().to_owned())
}

/// Returns an error with the last lines of `output` unless the program succeeded.
pub(crate) fn succeeded(name: &str, status: ExitStatus, output: &str) -> anyhow::Result<()> {
    if status.success() {
        return Ok(());
    }
    let lines: Vec<&str> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
    Err(anyhow!("{tail}")).context(format!("{name} failed ({status})"))
}

/// Quotes a path as one word of a POSIX shell.
pub(crate) fn shell_quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

fn missing(name: &str, error: io::Error) -> anyhow::Error {
    let hint = match error.kind() {
        io::ErrorKind::NotFound if name.starts_with("redis-") => {
            "; install Redis, or set `backup.redis_bin` to the folder of its programs"
        }
        io::ErrorKind::NotFound => {
            "; install PostgreSQL's client and server programs in the server's major version, or set `backup.pg_bin` \
             to their folder"
        }
        _ => "",
    };
    anyhow!("{name} can't be run: {error}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_error_for_a_missing_program_names_the_setting() {
        let error = Tool::new(Some(Path::new("/nonexistent")), "pg_dump")
            .run()
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("backup.pg_bin"), "{error}");
    }

    #[tokio::test]
    async fn a_failure_contains_the_last_lines_of_output() {
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
