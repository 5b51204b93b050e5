//! Runs the program, and reads what it says.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, fs};

use serde_json::Value;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);
/// An address where nobody listens.
const NOWHERE: &str = "redis://127.0.0.1:1";

/// The program with a folder of backups of its own.
pub(crate) struct Runner {
    folder: Arc<TempDir>,
    redis_url: String,
    database_url: String,
    settings: Vec<String>,
}

impl Runner {
    pub(crate) fn new() -> Self {
        Self {
            folder: Arc::new(TempDir::new().unwrap()),
            redis_url: NOWHERE.to_owned(),
            database_url: "postgres://postgres@127.0.0.1:1/market".to_owned(),
            settings: vec!["redis.connect_timeout=1s".to_owned()],
        }
    }

    /// The program with the same folder of backups as `other`.
    pub(crate) fn of(other: &Self) -> Self {
        Self {
            folder: other.folder.clone(),
            ..Self::new()
        }
    }

    pub(crate) fn redis(mut self, url: &str) -> Self {
        url.clone_into(&mut self.redis_url);
        self
    }

    pub(crate) fn database(mut self, url: &str) -> Self {
        url.clone_into(&mut self.database_url);
        self
    }

    /// `SECTION.KEY=VALUE`.
    pub(crate) fn setting(mut self, setting: &str) -> Self {
        self.settings.push(setting.to_owned());
        self
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backup-runner"));
        command
            .args(args)
            .arg("--folder")
            .arg(self.folder())
            .args(self.settings.iter().flat_map(|setting| ["--set", setting]))
            .env("REDIS_URL", &self.redis_url)
            .env("DATABASE_URL", &self.database_url)
            .env_remove("REDIS_PASSWORD_FILE")
            .env_remove("DATABASE_PASSWORD_FILE");
        if let Some(programs) = pg_bin() {
            command.env("STORAGE_BACKUP__PG_BIN", programs);
        }
        command
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ended {
        let Output { status, stdout, stderr } = self.command(args).stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended {
            code: status.code(),
            stdout: text(stdout),
            stderr: text(stderr),
        }
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

    /// The manifests of all backups.
    pub(crate) fn manifests(&self) -> Vec<Value> {
        serde_json::from_str(&self.done(&["list", "--json"])).unwrap()
    }

    /// The folder of the only backup of a kind, or of what is left of it.
    pub(crate) fn only(&self, kind: &str) -> PathBuf {
        let mut found: Vec<PathBuf> = fs::read_dir(self.folder().join(kind))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(found.len(), 1, "{found:?}");
        found.remove(0)
    }
}

/// How the program ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// PostgreSQL's programs of the servers' version; `None`: those in `PATH`, whatever their version.
pub(crate) fn pg_bin() -> Option<PathBuf> {
    let usual = concat!(env!("CARGO_MANIFEST_DIR"), "/../../.dev/bin");
    let folder = env::var_os("PG_BIN").map_or_else(|| PathBuf::from(usual), PathBuf::from);
    folder.join("pg_dump").exists().then_some(folder)
}

/// Changes one byte in the middle of a file.
pub(crate) fn flip_a_byte(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

/// Asks until the answer is yes.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
