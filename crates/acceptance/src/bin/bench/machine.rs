//! Description of the machine that was measured.

use std::path::Path;
use std::{fmt, fs};

use acceptance::tools::tool;
use anyhow::Context;
use serde::Serialize;
use storage_core::testing::process::project;
use tokio::process::Command;

/// Hardware and versions that figures depend on.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    processor: String,
    memory_mib: u64,
    kernel: String,
    redis: String,
    postgres: String,
    commit: String,
}

impl Machine {
    pub(crate) async fn current() -> anyhow::Result<Self> {
        let memory = field("/proc/meminfo", "MemTotal")?;
        let kib: u64 = memory
            .trim_end_matches(" kB")
            .parse()
            .context("reading the size of the memory")?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: field("/proc/cpuinfo", "model name").unwrap_or_default(),
            memory_mib: kib / 1024,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            redis: version(Path::new("redis-server"), &["--version"]).await,
            postgres: version(&tool("postgres"), &["--version"]).await,
            commit: version(Path::new("git"), &["describe", "--always", "--dirty"]).await,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cores,
            processor,
            memory_mib,
            kernel,
            redis,
            postgres,
            commit,
        } = self;
        write!(
            f,
            "{cores} cores ({processor}), {memory_mib} MiB, Linux {kernel}; {redis}; {postgres}; commit {commit}"
        )
    }
}

/// Returns the first value of `name` in a file of `name: value` lines.
fn field(file: &str, name: &str) -> anyhow::Result<String> {
    let text = fs::read_to_string(file)?;
    let line = text.lines().find(|line| line.starts_with(name));
    let value = line
        .and_then(|line| line.split_once(':'))
        .context(format!("no {name} in {file}"))?;
    Ok(value.1.trim().to_owned())
}

/// Returns what a program prints about its version; empty if there is no such program.
async fn version(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(project())
        .output()
        .await;
    let text = output.map_or_else(
        |_| String::new(),
        |output| String::from_utf8_lossy(&output.stdout).into_owned(),
    );
    let short = text.trim().split(" sha=").next().unwrap_or_default();
    short.to_owned()
}
