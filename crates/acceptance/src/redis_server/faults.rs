//! Faults of Redis itself: a wrong clock and a truncated append-only file.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::RedisServer;

/// Returns the library of Debian's package `libfaketime`, if it is installed.
pub fn libfaketime() -> Option<PathBuf> {
    let architectures = fs::read_dir("/usr/lib").ok()?.flatten();
    architectures
        .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
        .find(|library| library.exists())
}

/// Length of the partial entry at the end of a truncated file, less than the shortest entry.
const PARTIAL_ENTRY_BYTES: u64 = 7;

/// An adjustable clock.
#[derive(Debug)]
pub(super) struct Clock {
    library: PathBuf,
    file: PathBuf,
}

/// A position in the append-only file of each server.
#[derive(Clone, Debug)]
pub struct Written(Vec<(PathBuf, u64)>);

impl RedisServer {
    /// Restarts Redis with a clock that [`RedisServer::step_clock`] sets.
    pub async fn restart_with_clock(&mut self) -> anyhow::Result<()> {
        let library = libfaketime().context("libfaketime is not installed")?;
        let file = self.folder().join("clock");
        fs::write(&file, "+0")?;
        self.stop();
        self.clock = Some(Clock { library, file });
        self.resume().await
    }

    /// Sets the clock of Redis `seconds` ahead of the true time.
    pub fn step_clock(&self, seconds: i64) -> anyhow::Result<()> {
        let clock = self.clock.as_ref().context("this Redis has no adjustable clock")?;
        // The file is replaced by a rename, because a half-written file would hold another number.
        let new = clock.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}"))?;
        fs::rename(new, &clock.file)?;
        Ok(())
    }

    /// Returns the environment variables with which a program sees the adjustable clock.
    pub(super) fn clock_environment(&self) -> Vec<String> {
        let Some(clock) = &self.clock else {
            return Vec::new();
        };
        vec![
            // The C library's memory functions go before jemalloc's, which read the time before libfaketime is ready.
            format!("LD_PRELOAD={} libc.so.6", clock.library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", clock.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ]
    }

    /// Returns the current ends of the append-only files. Every command that was answered is before them.
    pub fn written(&self) -> anyhow::Result<Written> {
        let files = self.nodes.iter().map(|node| append_only_file(&node.folder));
        let files = files.collect::<anyhow::Result<Vec<_>>>()?;
        let measured = files.into_iter().map(|file| {
            let bytes = fs::metadata(&file)?.len();
            Ok((file, bytes))
        });
        Ok(Written(measured.collect::<anyhow::Result<_>>()?))
    }

    /// Kills Redis and truncates its files to `written` and a partial entry, as a crash of the machine does with
    /// `appendfsync everysec`.
    pub fn crash_back_to(&mut self, written: &Written) -> anyhow::Result<()> {
        self.stop();
        let mut any = false;
        for (file, written_bytes) in &written.0 {
            let file = OpenOptions::new().write(true).open(file)?;
            let bytes = file.metadata()?.len();
            any |= bytes > *written_bytes;
            file.set_len(bytes.min(written_bytes + PARTIAL_ENTRY_BYTES))?;
        }
        ensure!(any, "nothing was written in the meantime");
        Ok(())
    }
}

/// Returns the part of the append-only file that a server in `folder` writes to.
fn append_only_file(folder: &Path) -> anyhow::Result<PathBuf> {
    let mut newest = None;
    for entry in fs::read_dir(folder.join("appendonlydir"))? {
        let file = entry?.path();
        let name = file.to_string_lossy().into_owned();
        let number = name
            .strip_suffix(".incr.aof")
            .and_then(|name| name.rsplit('.').next()?.parse::<u64>().ok());
        newest = newest.max(number.map(|number| (number, file)));
    }
    let (_, file) = newest.context("no append-only file")?;
    Ok(file)
}
