//! The schedule.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use storage_core::testing::redis::TestRedis;

use crate::support::{Runner, until};

/// The worker at its work.
pub(crate) struct Running {
    child: Child,
    address: String,
}

impl Running {
    pub(crate) fn start(runner: &Runner) -> Self {
        let mut command = runner.command(&["run", "--metrics-listen", "127.0.0.1:0"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = log.by_ref().map_while(Result::ok).find_map(|line| {
            let (_, address) = line.split_once("address=")?;
            Some(address.trim().to_owned())
        });
        std::thread::spawn(move || log.map_while(Result::ok).for_each(|line| eprintln!("{line}")));
        Self {
            child,
            address: address.expect("it serves /metrics"),
        }
    }

    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; it must end in good order.
    pub(crate) fn stop(mut self) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGTERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn backups_are_made_when_they_are_due_and_not_before() {
    let server = TestRedis::start_with(&["--repl-diskless-sync-delay", "0"]).await;
    let runner = Runner::new()
        .redis(server.url())
        .setting("backup.postgres_every=0s")
        .setting("backup.keep_last=2");
    let running = Running::start(&runner);
    let metrics = running.get("/metrics");
    assert!(
        metrics.contains("\nbackup_runner_verify_failures_total{kind=\"base\"} 0\n"),
        "{metrics}"
    );
    until("the first backup", || {
        running
            .get("/metrics")
            .contains("backup_runner_backups_total{kind=\"redis\",result=\"ok\"} 1")
    });
    until("readiness", || running.get("/readyz").ends_with("ready\n"));
    running.stop();

    // The last one is young enough.
    let running = Running::start(&runner);
    until("readiness", || running.get("/readyz").ends_with("ready\n"));
    running.stop();
    assert_eq!(runner.manifests().len(), 1);

    let often = runner
        .setting("backup.redis_every=100ms")
        .setting("backup.keep_daily=0")
        .setting("backup.keep_weekly=0");
    let running = Running::start(&often);
    until("backups to be removed", || {
        !running
            .get("/metrics")
            .contains("backup_runner_pruned_total{kind=\"redis\"} 0\n")
    });
    running.stop();
    assert!(often.manifests().len() <= 3);
}

#[tokio::test]
async fn a_failure_is_counted_shown_and_tried_again() {
    let server = TestRedis::start_with(&[]).await;
    let runner = Runner::new()
        .redis(&server.url().replace("redis://", "redis://nobody:hunter2@"))
        .setting("backup.postgres_every=0s")
        .setting("backup.redis_every=1s");
    let running = Running::start(&runner);
    until("two failures", || {
        running
            .get("/metrics")
            .contains("backup_runner_backups_total{kind=\"redis\",result=\"failed\"} 2")
    });
    let ready = running.get("/readyz");
    assert!(
        ready.contains("redis: backup of redis: ") && ready.contains("503"),
        "{ready}"
    );
    running.stop();
}

#[test]
fn a_worker_with_nothing_to_do_says_so() {
    let runner = ["redis_every", "postgres_every", "verify_every"]
        .iter()
        .fold(Runner::new(), |runner, key| runner.setting(&format!("backup.{key}=0s")));
    let ended = runner.run(&["run"]);
    assert_eq!(ended.code, Some(64));
    assert!(ended.stderr.contains("nothing to do"), "{}", ended.stderr);
}
