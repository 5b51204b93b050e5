//! The schedule.

use storage_core::testing::polling::until_true;
use storage_core::testing::redis::TestRedis;

use crate::support::Runner;

#[tokio::test]
async fn backups_are_made_when_they_are_due_and_not_before() {
    let server = TestRedis::start_with(&["--repl-diskless-sync-delay", "0"]).await;
    let runner = Runner::new()
        .redis(server.url())
        .setting("backup.postgres_every=0s")
        .setting("backup.keep_last=2");
    let running = runner.start();
    assert_eq!(
        running
            .metric("backup_runner_verify_failures_total{kind=\"base\"}")
            .await,
        0.0
    );
    until_true("the first backup", async || {
        running
            .metric("backup_runner_backups_total{kind=\"redis\",result=\"ok\"}")
            .await
            == 1.0
    })
    .await;
    running.ready().await;
    running.stop().await;

    // The last backup is younger than the interval.
    let running = runner.start();
    running.ready().await;
    running.stop().await;
    assert_eq!(runner.manifests().len(), 1);

    let often = runner
        .setting("backup.redis_every=100ms")
        .setting("backup.keep_daily=0")
        .setting("backup.keep_weekly=0");
    let running = often.start();
    until_true("backups are removed", async || {
        running.metric("backup_runner_pruned_total{kind=\"redis\"}").await > 0.0
    })
    .await;
    running.stop().await;
    assert!(often.manifests().len() <= 3);
}

#[tokio::test]
async fn a_failure_is_counted_reported_and_retried() {
    let server = TestRedis::start_with(&[]).await;
    let runner = Runner::new()
        .redis(&server.url().replace("redis://", "redis://intruder:hunter2@"))
        .setting("backup.postgres_every=0s")
        .setting("backup.redis_every=1s");
    let running = runner.start();
    until_true("two failures", async || {
        running
            .metric("backup_runner_backups_total{kind=\"redis\",result=\"failed\"}")
            .await
            >= 2.0
    })
    .await;
    let (status, body) = running.get("/readyz").await;
    assert!(status == 503 && body.contains("redis: backup of redis: "), "{body}");
    running.stop().await;
}

#[test]
fn a_worker_without_a_task_is_misconfigured() {
    let runner = ["redis_every", "postgres_every", "verify_every"]
        .iter()
        .fold(Runner::new(), |runner, key| runner.setting(&format!("backup.{key}=0s")));
    let ended = runner.run(&["run"]);
    assert_eq!(ended.code, Some(64));
    assert!(ended.stderr.contains("nothing to do"), "{}", ended.stderr);
}
