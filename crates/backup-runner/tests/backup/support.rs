//! backup-runner with a folder of backups of one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use storage_core::config::postgres::PostgresConfig;
use storage_core::config::redis::RedisConfig;
use storage_core::testing::native::PG_BIN;
use storage_core::testing::process::tool;
use storage_core::testing::program::{Outcome, Program, Worker};
use tempfile::TempDir;

/// The program with a folder of backups; clones share the folder.
#[derive(Clone)]
pub(crate) struct Runner {
    folder: Arc<TempDir>,
    program: Program,
}

impl Runner {
    /// Creates a runner without stores: it connects to ports without a server.
    pub(crate) fn new() -> Self {
        Self::with_folder(Arc::new(TempDir::new().unwrap()))
    }

    /// Creates a runner with the folder of `other`.
    pub(crate) fn of(other: &Self) -> Self {
        Self::with_folder(other.folder.clone())
    }

    fn with_folder(folder: Arc<TempDir>) -> Self {
        let program = Program::new("backup-runner").setting(&format!("backup.folder={}", folder.path().display()));
        let runner = Self { folder, program }
            .redis("redis://127.0.0.1:1")
            .database("postgres://postgres@127.0.0.1:1/market")
            .setting("redis.connect_timeout=1s");
        match pg_bin() {
            Some(programs) => runner.setting(&format!("backup.pg_bin={}", programs.display())),
            None => runner,
        }
    }

    pub(crate) fn redis(mut self, url: &str) -> Self {
        self.program = self.program.redis(&RedisConfig::at(url).unwrap());
        self
    }

    pub(crate) fn database(mut self, url: &str) -> Self {
        self.program = self.program.database(&PostgresConfig::at(url).unwrap());
        self
    }

    /// Sets a key of the configuration: `SECTION.KEY=VALUE`.
    pub(crate) fn setting(mut self, setting: &str) -> Self {
        self.program = self.program.setting(setting);
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    /// Starts `backup-runner run`.
    pub(crate) fn start(&self) -> Worker {
        self.program.start("one")
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.program.output(arguments)
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let ended = self.run(args);
        assert_eq!(ended.code, Some(0), "{args:?}: {}{}", ended.stdout, ended.stderr);
        ended.stdout
    }

    /// Runs a command that must fail, and returns its complaint.
    pub(crate) fn failed(&self, args: &[&str]) -> String {
        let ended = self.run(args);
        assert_eq!(ended.code, Some(1), "{args:?}: {}{}", ended.stdout, ended.stderr);
        ended.stderr
    }

    /// Returns the manifests of all backups.
    pub(crate) fn manifests(&self) -> Vec<Value> {
        serde_json::from_str(&self.done(&["list", "--json"])).unwrap()
    }

    /// Returns the folder of the only backup of a kind, complete or not.
    pub(crate) fn only(&self, kind: &str) -> PathBuf {
        let mut found: Vec<PathBuf> = fs::read_dir(self.folder().join(kind))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }
}

/// Returns the folder of PostgreSQL's programs in the servers' version; `None`: those in `PATH`.
pub(crate) fn pg_bin() -> Option<PathBuf> {
    tool("PG_BIN", PG_BIN).filter(|folder| folder.join("pg_dump").exists())
}

/// Changes one byte in the middle of a file.
pub(crate) fn flip_a_byte(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}
