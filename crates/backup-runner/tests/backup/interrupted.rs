//! Interrupted backups are not listed as backups.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use storage_core::testing::polling::until_true;
use storage_core::testing::redis::TestRedis;
use tempfile::TempDir;

use crate::support::Runner;

/// Creates a folder of Redis' programs in which redis-cli is `script`. The file to write is its last argument.
fn with_redis_cli(script: &str) -> TempDir {
    let folder = TempDir::new().unwrap();
    let program = folder.path().join("redis-cli");
    fs::write(&program, format!("#!/bin/sh\nfor file; do :; done\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn with_programs(server: &TestRedis, programs: &Path) -> Runner {
    Runner::new()
        .redis(server.url())
        .setting(&format!("backup.redis_bin={}", programs.display()))
}

async fn start_and_await_half(runner: &Runner) -> Child {
    let child = runner
        .program()
        .command(&["backup", "redis"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_true("half a backup", async || {
        let folders = fs::read_dir(runner.folder().join("redis")).into_iter().flatten();
        folders.flatten().any(|folder| folder.path().join("dump.rdb").exists())
    })
    .await;
    child
}

fn send(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

#[tokio::test]
async fn a_killed_backup_does_not_count_and_is_removed_when_it_is_old() {
    let server = TestRedis::start_with(&[]).await;
    let programs = with_redis_cli("echo half > \"$file\"\nexec sleep 2");
    let runner = with_programs(&server, programs.path());
    let mut child = start_and_await_half(&runner).await;
    send(&child, Signal::SIGKILL);
    child.wait().unwrap();

    assert!(runner.manifests().is_empty());
    let listed = runner.done(&["list"]);
    assert!(listed.contains("incomplete"), "{listed}");
    let complaint = runner.failed(&["restore", "redis", "latest"]);
    assert!(complaint.contains("no backup of kind redis"), "{complaint}");
    assert!(runner.done(&["prune"]).contains("0 leftovers"));
    let later = runner.setting("backup.leftovers_after=0s");
    assert!(later.done(&["prune"]).contains("1 leftovers"));
    assert!(later.done(&["list"]).contains("no backups"));
}

#[tokio::test]
async fn a_backup_that_receives_sigterm_leaves_nothing() {
    let server = TestRedis::start_with(&[]).await;
    let programs = with_redis_cli("echo half > \"$file\"\nexec sleep 60");
    let runner = with_programs(&server, programs.path());
    let child = start_and_await_half(&runner).await;
    send(&child, Signal::SIGTERM);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("interrupted"));
    assert!(runner.done(&["list"]).contains("no backups"));
}

#[tokio::test]
async fn a_program_that_fails_is_quoted_and_leaves_nothing() {
    let server = TestRedis::start_with(&[]).await;
    let programs = with_redis_cli("echo half > \"$file\"\necho 'No space left on device' >&2\nexit 1");
    let runner = with_programs(&server, programs.path());
    let complaint = runner.failed(&["backup", "redis"]);
    assert!(complaint.contains("No space left on device"), "{complaint}");
    assert!(runner.done(&["list"]).contains("no backups"));
}

#[tokio::test]
async fn no_password_is_in_an_argument() {
    let server = TestRedis::start_with(&["--user", "boss", "on", ">hunter2", "~*", "&*", "+@all"]).await;
    let notes = TempDir::new().unwrap();
    let script = format!(
        "printf '%s\\n' \"$@\" > {0}/args\nprintf %s \"$REDISCLI_AUTH\" > {0}/auth\nexit 1",
        notes.path().display()
    );
    let programs = with_redis_cli(&script);
    let url = server.url().replace("redis://", "redis://boss:hunter2@");
    let runner = with_programs(&server, programs.path()).redis(&url);
    runner.failed(&["backup", "redis"]);
    let note = |name: &str| fs::read_to_string(notes.path().join(name)).unwrap();
    assert_eq!(note("auth"), "hunter2");
    assert!(!note("args").contains("hunter2"), "{}", note("args"));
}
