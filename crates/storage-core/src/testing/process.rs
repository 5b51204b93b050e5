//! Servers that tests start: none outlives the test's process, however that ends.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, io};

use tempfile::TempDir;

/// Ends the server when its own standard input ends, which is when the test's process is gone, or says that the folder is to
/// be kept. Itself it survives the signals that a terminal or a test runner sends to all.
const WATCHED: &str = r#"
trap '' HUP INT TERM
"$@" </dev/null &
server=$!
read -r word
case $word in end=*) STOP_SIGNAL=${word#end=} word=keep ;; esac
kill -"$STOP_SIGNAL" $server 2>/dev/null
wait $server
[ "$word" = keep ] || rm -rf "$DATA""#;

/// How long a server may take to start.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What `scripts/services tools` exported as `variable`, or where it puts it; `None` where it is not.
pub fn tool(variable: &str, usual: &str) -> Option<PathBuf> {
    let path = env::var_os(variable).map_or_else(|| PathBuf::from(usual), PathBuf::from);
    path.exists().then_some(path)
}

/// A path as an argument.
///
/// # Errors
/// When it is not UTF-8.
pub fn text(path: &Path) -> io::Result<&str> {
    path.to_str()
        .ok_or_else(|| io::Error::other(format!("{} is not text", path.display())))
}

/// A running server with a folder of its own. Dropping it ends the server and removes the folder.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    folder: Arc<TempDir>,
}

impl ServerProcess {
    /// Starts `command` in the background; its output goes to a file. `stop_signal` ends it at once and in good order
    /// where there is such a signal.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start(command: &[&str], stop_signal: &str, folder: impl Into<Arc<TempDir>>) -> io::Result<Self> {
        let folder = folder.into();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log_file(folder.path()))?;
        let child = Command::new("sh")
            .args(["-c", WATCHED, "sh"])
            .args(command)
            .env("STOP_SIGNAL", stop_signal)
            .env("DATA", folder.path())
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self { child, folder })
    }

    /// Where the server may keep its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends the server and keeps its folder.
    ///
    /// # Errors
    /// When nobody is there to be told; then the folder may be gone.
    pub fn stop(mut self) -> io::Result<Arc<TempDir>> {
        if let Some(stdin) = &mut self.child.stdin {
            stdin.write_all(b"keep\n")?;
        }
        Ok(self.folder.clone())
    }

    /// Ends the server with another signal than it was started with, and waits for its end; its folder stays as long as somebody
    /// else holds it.
    pub fn end(mut self, signal: &str) {
        if let Some(stdin) = &mut self.child.stdin {
            // Without a watcher there is no server.
            let _ = stdin.write_all(format!("end={signal}\n").as_bytes());
        }
    }

    /// Asks `ready` until it has an answer.
    ///
    /// # Errors
    /// When the time is up; the error holds the end of the server's output.
    pub async fn until<T>(&self, patience: Duration, mut ready: impl AsyncFnMut() -> Option<T>) -> io::Result<T> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(answer) = ready().await {
                return Ok(answer);
            }
            if Instant::now() > deadline {
                let log = std::fs::read_to_string(log_file(self.folder())).unwrap_or_default();
                let tail: Vec<&str> = log.lines().rev().take(15).collect();
                let tail: Vec<&str> = tail.into_iter().rev().collect();
                return Err(io::Error::other(format!(
                    "no server after {patience:?}:\n{}",
                    tail.join("\n")
                )));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // The watcher waits for the server; without it there would be nothing left to end.
        let _ = self.child.wait();
    }
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("server.log")
}
