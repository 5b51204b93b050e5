//! Servers that tests start. A server ends with the test's process, even if that is killed.

use std::fs::OpenOptions;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io::Write as _;
use std::net::TcpListener;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use std::{env, io};

use tempfile::TempDir;

use super::polling::poll;

/// Ends the server when standard input ends, which happens when the test's process ends, or when a line asks to keep
/// the folder. It ignores the signals that a terminal or a test runner sends to the whole process group.
const WATCHED: &str = r#"
trap '' HUP INT TERM
"$@" </dev/null &
server=$!
read -r word
case $word in end=*) STOP_SIGNAL=${word#end=} word=keep ;; esac
kill -"$STOP_SIGNAL" $server 2>/dev/null
wait $server
[ "$word" = keep ] || rm -rf "$DATA""#;

/// Ports of servers, below those of connections (`net.ipv4.ip_local_port_range`).
const PORTS: Range<u16> = 10_000..32_000;

/// Returns the top folder of the project.
pub fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Returns the path that `scripts/services tools` exports as `variable`, or `usual`; `None` if it does not exist.
pub fn tool(variable: &str, usual: &str) -> Option<PathBuf> {
    let path = env::var_os(variable).map_or_else(|| PathBuf::from(usual), PathBuf::from);
    path.exists().then_some(path)
}

/// Returns a path as an argument, which must be UTF-8.
pub fn text(path: &Path) -> io::Result<&str> {
    path.to_str()
        .ok_or_else(|| io::Error::other(format!("{} is not UTF-8", path.display())))
}

/// Returns a free port. Not one that the system gives to connections: while a server restarts, such a port may be taken
/// by another test's connection, or by a client's own one that tries to reach the server.
pub fn free_port() -> io::Result<u16> {
    let mut tried = Ok(0);
    for _ in 0..100 {
        let random = RandomState::new().build_hasher().finish() % u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(random).expect("less than the number of ports");
        tried = TcpListener::bind(("127.0.0.1", port)).map(|_| port);
        if tried.is_ok() {
            break;
        }
    }
    tried
}

/// A running server with a folder of its own. Dropping it ends the server and removes the folder.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    folder: Arc<TempDir>,
}

impl ServerProcess {
    /// Starts `command`; its output goes to a file. `stop_signal` is the signal that ends the server fast.
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

    /// Returns the folder for the server's files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends the server and keeps its folder. An error means that the server and its folder may be gone already.
    pub fn stop(mut self) -> io::Result<Arc<TempDir>> {
        if let Some(stdin) = &mut self.child.stdin {
            stdin.write_all(b"keep\n")?;
        }
        Ok(self.folder.clone())
    }

    /// Ends the server with another signal than it was started with, and waits for its end; its folder stays as long as
    /// there is another reference to it.
    pub fn end(mut self, signal: &str) {
        if let Some(stdin) = &mut self.child.stdin {
            // An error means that the watcher has ended, and the server with it.
            let _ = stdin.write_all(format!("end={signal}\n").as_bytes());
        }
    }

    /// Calls `ready` until it returns a value. The error after `patience` holds the end of the server's output.
    pub async fn until<T>(&self, patience: Duration, mut ready: impl AsyncFnMut() -> Option<T>) -> io::Result<T> {
        let answer = poll(patience, async || ready().await.ok_or_else(String::new)).await;
        answer.map_err(|_| {
            let log = std::fs::read_to_string(log_file(self.folder())).unwrap_or_default();
            let tail = log.lines().count().saturating_sub(15);
            let tail: Vec<&str> = log.lines().skip(tail).collect();
            io::Error::other(format!("no server after {patience:?}:\n{}", tail.join("\n")))
        })
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // The watcher waits for the server's end.
        let _ = self.child.wait();
    }
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("server.log")
}
