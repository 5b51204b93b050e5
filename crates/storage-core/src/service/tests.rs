use std::future::pending;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::*;

#[derive(Parser)]
#[command(name = "worker", version = "1.2.3")]
struct Cli {
    #[arg(long)]
    number: Option<u32>,
}

fn code_of(args: &[&str], result: impl FnOnce() -> anyhow::Result<()>) -> u8 {
    let args = ["worker"].iter().chain(args).map(OsString::from);
    dispatch(args, async |_: Cli| result())
}

#[test]
fn usage_errors_exit_64_and_help_and_version_0() {
    let never = || panic!("the command must not run");
    assert_eq!(code_of(&["--nonsense"], never), 64);
    assert_eq!(code_of(&["--number", "x"], never), 64);
    assert_eq!(code_of(&["--help"], never), 0);
    assert_eq!(code_of(&["--version"], never), 0);
}

#[test]
fn the_result_of_the_command_is_the_exit_code() {
    let misconfigured = || anyhow::Error::from(Misconfigured::new("wrong partitions"));
    assert_eq!(code_of(&[], || Ok(())), 0);
    assert_eq!(code_of(&[], || Err(anyhow!("failed"))), 1);
    assert_eq!(code_of(&[], || Err(misconfigured())), 64);
    assert_eq!(code_of(&[], || Err(misconfigured().context("starting"))), 64);
    assert_eq!(
        code_of(&[], || Err(anyhow::Error::from(Stopped).context("starting"))),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_what_tasks_have_begun() {
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
    assert_eq!(exit_code(Err(error)), 64);
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

/// Which task the process of [`process_under_signals`] runs.
const CHILD: &str = "SERVICE_TEST_CHILD";

/// Not a test by itself: the process that the tests below send signals to.
#[test]
fn process_under_signals() {
    let Ok(task) = std::env::var(CHILD) else {
        return;
    };
    let code = dispatch([OsString::from("worker")], async |_: Cli| {
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
    std::process::exit(code.into());
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

    /// Exit code and stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said)
    }
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
    // Two signals of a kind that are pending at once are one.
    process.signal(Signal::SIGINT);
    assert_eq!(process.end().0, Some(1));
}
