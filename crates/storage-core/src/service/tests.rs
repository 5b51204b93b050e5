use std::future::pending;
use std::io::{BufRead, BufReader, Read};
use std::pin::pin;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::config::Misconfigured;
use crate::error_class::{MISUSED, exit_code};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_the_current_work_of_tasks() {
    let mut service = Service::without_signals(Duration::from_secs(10));
    let token = service.token();
    service.spawn("commit", async move {
        token.cancelled().await;
        sleep(Duration::from_secs(9)).await;
        Ok(())
    });
    let token = service.token();
    service.spawn("read", async move {
        token.cancelled().await;
        Err(Stopped.into())
    });
    service.spawn_background("http", pending());
    service.token().cancel();
    let begin = Instant::now();
    service.run().await.unwrap();
    assert_eq!(begin.elapsed().as_secs(), 9);
}

#[tokio::test(start_paused = true)]
async fn the_grace_period_is_a_limit_and_the_tasks_that_exceed_it_are_named() {
    let mut service = Service::without_signals(Duration::from_secs(10));
    service.spawn("read", pending());
    service.spawn("commit", pending());
    service.spawn("fold", async { Ok(()) });
    service.spawn_background("http", pending());
    service.token().cancel();
    let error = service.run().await.unwrap_err().to_string();
    assert_eq!(
        error,
        "the grace period of 10s is over; aborted while still running: commit, read"
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_that_fails_shuts_the_others_down() {
    let mut service = Service::without_signals(Duration::from_secs(10));
    let token = service.token();
    service.spawn("read", async move {
        token.cancelled().await;
        Err(anyhow!("a later failure"))
    });
    service.spawn("commit", async { Err(Misconfigured::new("wrong partitions").into()) });
    let error = service.run().await.unwrap_err();
    assert_eq!(format!("{error:#}"), "task `commit` failed: wrong partitions");
    assert_eq!(exit_code(&Err(error)), MISUSED);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_shuts_the_others_down() {
    let mut service = Service::without_signals(Duration::from_secs(10));
    let token = service.token();
    service.spawn("read", async move {
        token.cancelled().await;
        Ok(())
    });
    service.spawn_background("http", async { panic!("number {}", 7) });
    let error = service.run().await.unwrap_err();
    assert_eq!(format!("{error:#}"), "task `http` failed: panicked: number 7");
}

#[tokio::test(start_paused = true)]
async fn a_service_ends_when_its_tasks_have_ended() {
    let mut service = Service::without_signals(Duration::from_secs(10));
    service.spawn("once", async { Ok(()) });
    service.spawn_background("http", pending());
    let token = service.token();
    service.run().await.unwrap();
    assert!(token.is_cancelled());
}

/// Environment variable with the task that the process of [`process_under_signals`] runs.
const CHILD: &str = "SERVICE_TEST_CHILD";

/// Runs as the process that the tests below send signals to; it is not a test.
#[test]
fn process_under_signals() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let result = runtime.block_on(async {
        let grace = ServiceConfig {
            shutdown_grace: Duration::from_secs(60),
            ..ServiceConfig::default()
        };
        let mut service = Service::new(&grace)?;
        let token = service.token();
        println!("\nlistening");
        if task == "stuck at start" {
            pending::<()>().await;
        }
        service.spawn("commit", async move {
            token.cancelled().await;
            println!("\ndraining");
            if task == "never ends" { pending().await } else { Ok(()) }
        });
        service.run().await
    });
    if let Err(error) = &result {
        eprintln!("error: {error:#}");
    }
    std::process::exit(exit_code(&result).into());
}

struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    fn running(task: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "service::tests::process_under_signals", "--nocapture"])
            .env(CHILD, task)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut process = Self { child, lines };
        process.wait_for("listening");
        process
    }

    fn wait_for(&mut self, line: &str) {
        assert!(
            self.lines.by_ref().any(|said| said.unwrap() == line),
            "ended before `{line}`"
        );
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the end, and returns exit code and stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

/// Feeds signals at these times, in ms, to [`obey`], and returns the times of shutdown and abort.
async fn obeyed(signals_ms: &[u64]) -> [Option<u128>; 2] {
    let (shutdown, abort) = (CancellationToken::new(), CancellationToken::new());
    let begin = Instant::now();
    let signals = futures::stream::iter(signals_ms).then(async |at| {
        tokio::time::sleep_until(begin + Duration::from_millis(*at)).await;
        "SIGTERM"
    });
    let at = async |token: &CancellationToken| {
        let cancelled = tokio::time::timeout(Duration::from_secs(60), token.cancelled()).await;
        cancelled.is_ok().then(|| begin.elapsed().as_millis())
    };
    let signals = pin!(signals);
    let (_, shutdown, abort) = tokio::join!(obey(signals, &shutdown, &abort), at(&shutdown), at(&abort));
    [shutdown, abort]
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_within_half_a_second_is_the_same_request() {
    assert_eq!(obeyed(&[0]).await, [Some(0), None]);
    assert_eq!(obeyed(&[0, 1, 500]).await, [Some(0), None]);
    assert_eq!(obeyed(&[0, 501]).await, [Some(0), Some(501)]);
    assert_eq!(obeyed(&[10, 200, 700]).await, [Some(10), Some(700)]);
}

#[test]
fn a_signal_drains_and_exits_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut process = Process::running("ends");
        process.signal(signal);
        process.wait_for("draining");
        assert_eq!(process.end(), (Some(0), String::new()));
    }
}

#[test]
fn a_second_signal_aborts_and_exits_1() {
    let mut process = Process::running("never ends");
    process.signal(Signal::SIGTERM);
    process.wait_for("draining");
    std::thread::sleep(2 * SAME_REQUEST);
    process.signal(Signal::SIGTERM);
    let (code, said) = process.end();
    assert_eq!(code, Some(1));
    assert!(
        said.contains("a second signal came; aborted while still running: commit"),
        "{said}"
    );
}

#[test]
fn a_second_signal_ends_a_process_that_is_stuck_before_its_tasks_run() {
    let process = Process::running("stuck at start");
    process.signal(Signal::SIGTERM);
    std::thread::sleep(2 * SAME_REQUEST);
    process.signal(Signal::SIGINT);
    assert_eq!(process.end().0, Some(1));
}
