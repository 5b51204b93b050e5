//! What can be wrong with a Redis itself: its clock, and the end of its append-only file.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::RedisServer;

/// The library of Debian's package `libfaketime`, where it is installed.
pub fn libfaketime() -> Option<PathBuf> {
    let architectures = fs::read_dir("/usr/lib").ok()?.flatten();
    architectures
        .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
        .find(|library| library.exists())
}

/// Less than the shortest entry.
const TORN_BYTES: u64 = 7;

/// A clock that can be moved.
#[derive(Debug)]
pub(super) struct Clock {
    library: PathBuf,
    file: PathBuf,
}

/// A place in the append-only file of each server.
#[derive(Clone, Debug)]
pub struct Written(Vec<(PathBuf, u64)>);

impl RedisServer {
    /// Starts it again with a clock that [`RedisServer::step_clock`] moves.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn take_clock(&mut self) -> anyhow::Result<()> {
        let library = libfaketime().context("libfaketime is not installed")?;
        let file = self.folder().join("clock");
        fs::write(&file, "+0")?;
        self.stop();
        self.clock = Some(Clock { library, file });
        self.resume().await
    }

    /// Sets its clock so many seconds off the true time.
    ///
    /// # Errors
    /// When its clock was not taken.
    pub fn step_clock(&self, seconds: i64) -> anyhow::Result<()> {
        let clock = self.clock.as_ref().context("the clock was not taken")?;
        // In one step: half a number is another number.
        let new = clock.file.with_extension("new");
        fs::write(&new, format!("{seconds:+}"))?;
        fs::rename(new, &clock.file)?;
        Ok(())
    }

    /// Variables with which a program sees the clock of this scenario.
    pub(super) fn clock_environment(&self) -> Vec<String> {
        let Some(clock) = &self.clock else {
            return Vec::new();
        };
        vec![
            // The C library's memory functions too, before jemalloc's: those ask for the time before the library is
            // ready for it.
            format!("LD_PRELOAD={} libc.so.6", clock.library.display()),
            format!("FAKETIME_TIMESTAMP_FILE={}", clock.file.display()),
            "FAKETIME_NO_CACHE=1".to_owned(),
            "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        ]
    }

    /// How far the append-only files go now: what was answered until now is before that.
    ///
    /// # Errors
    /// When there is none.
    pub fn written(&self) -> anyhow::Result<Written> {
        let files = self.nodes.iter().map(|node| append_only_file(&node.folder));
        let files = files.collect::<anyhow::Result<Vec<_>>>()?;
        let measured = files.into_iter().map(|file| {
            let bytes = fs::metadata(&file)?.len();
            Ok((file, bytes))
        });
        Ok(Written(measured.collect::<anyhow::Result<_>>()?))
    }

    /// Kills it and has its files be as they were at `written`, and a torn entry behind that: what a crash of the
    /// machine leaves with `appendfsync everysec`.
    ///
    /// # Errors
    /// When the append-only file was rewritten meanwhile.
    pub fn crash_back_to(&mut self, written: &Written) -> anyhow::Result<()> {
        self.stop();
        let mut any = false;
        for (file, written_bytes) in &written.0 {
            let file = OpenOptions::new().write(true).open(file)?;
            let bytes = file.metadata()?.len();
            any |= bytes > *written_bytes;
            file.set_len(bytes.min(written_bytes + TORN_BYTES))?;
        }
        ensure!(any, "nothing was written in the meantime");
        Ok(())
    }
}

/// The part of it that a server in `folder` writes to.
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
