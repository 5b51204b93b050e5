//! TimescaleDB's own scheduler. `DATABASE_URL` must name a server of the Community edition that has one. No script
//! installs such a server, so the tests are skipped without it.

use std::env;

use storage_core::postgres::edition::{Edition, Server};
use storage_core::testing::polling::{until, until_true};
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::skip::skip_optional;

use crate::harness::Stores;

/// Makes the scheduler run the jobs every second.
const EVERY_SECOND: &str = "
    SELECT FROM timescaledb_information.jobs,
        LATERAL alter_job(jobs.job_id, schedule_interval => INTERVAL '1 second', next_start => now())
    WHERE proc_name IN ('policy_refresh_continuous_aggregate', 'policy_compression')";

/// Six days of three symbols, a trade every ten minutes.
const HISTORY: &str = "
    INSERT INTO symbols (symbol) SELECT 'S' || symbol FROM generate_series(1, 3) symbol;
    INSERT INTO ticks (time, symbol, price, lots, trade_no, trade_key, revision)
    SELECT time, 'S' || symbol, 10, 1, extract(epoch FROM time), '', 1
    FROM generate_series(time_bucket('1 day', now()) - INTERVAL '6 days', now() - INTERVAL '1 hour',
                         INTERVAL '10 minutes') time, generate_series(1, 3) symbol;
    INSERT INTO candles_1m SELECT time, symbol, price, price, price, price, lots, 1, revision FROM ticks";

/// Returns late trades in new minutes of all days.
fn late_trades(minute: i64) -> String {
    format!(
        "INSERT INTO ticks (time, symbol, price, lots, trade_no, trade_key, revision)
         SELECT time + INTERVAL '{minute} minutes', symbol, price, lots, trade_no, trade_key, {minute} + 1
         FROM ticks WHERE revision = 1;
         INSERT INTO candles_1m SELECT time, symbol, price, price, price, price, lots, 1, revision
         FROM ticks WHERE revision = {minute} + 1"
    )
}

/// Returns migrated stores on a server with a scheduler.
async fn stores() -> Option<Stores> {
    if env::var_os("DATABASE_URL").is_some()
        && let Some(database) = TestDatabase::start_empty(Edition::Community).await
    {
        let stores = Stores::ready(database).await;
        let server = Server::detect(&mut stores.database.connect().await).await.unwrap();
        if server.is_some_and(|server| server.has_scheduler) {
            return Some(stores);
        }
    }
    skip_optional("DATABASE_URL names no server of the Community edition with a scheduler");
    None
}

#[tokio::test]
async fn refreshes_beside_jobs_and_late_trades_fail_no_job() {
    let Some(stores) = stores().await else { return };
    stores.database.execute(HISTORY).await;
    stores.database.execute(EVERY_SECOND).await;
    let worker = stores.worker();
    for minute in 1..6 {
        stores.database.execute(&late_trades(minute)).await;
        let refreshed = stores.admin(&["refresh", "--all"]);
        assert_eq!(refreshed.code, Some(0), "{}", refreshed.stderr);
    }
    until("a verified history", async || {
        let verified = stores.admin(&["verify"]);
        match verified.code {
            Some(0) => Ok(()),
            _ => Err(verified.stderr),
        }
    })
    .await;
    // The jobs of other databases may occupy all background workers of the server.
    let errors = "SELECT job_id || ': ' || err_message AS text FROM timescaledb_information.job_errors
        WHERE err_message NOT LIKE 'failed to start job%'";
    assert_eq!(stores.database.texts(errors).await, Vec::<String>::new());
    let postponed = "SELECT count(*) FROM timescaledb_information.job_stats
        WHERE job_id >= 1000 AND next_start > now() + INTERVAL '1 minute'";
    assert_eq!(stores.database.number(postponed).await, 0);
    worker.stop().await;
}

#[tokio::test]
async fn a_failing_job_is_reported_until_it_succeeds() {
    let Some(stores) = stores().await else { return };
    let worker = stores.worker_with(&["admin.policy_interval=1s"]);
    worker.ready().await;
    let alter = async |config: &str| {
        let alter = format!(
            "SELECT alter_job(job_id, next_start => now(), config => config {config}) FROM timescaledb_information.jobs
             WHERE proc_name = 'policy_compression' AND hypertable_name = 'signals'"
        );
        stores.database.execute(&alter).await;
    };
    let failing = r#"aggregator_admin_policy_failing{kind="compress",table="signals"}"#;
    let is_failing = async || worker.metrics().await.get(failing) == Some(&1.0);
    alter(r#"|| '{"maxchunks_to_compress": "many"}'"#).await;
    until_true("a failing job", is_failing).await;
    worker.logged("the compress policy of signals failed at").await;
    let status = stores.admin(&["status"]).stdout;
    for expected in [
        "warning: the compress policy of signals failed at",
        "compress signals every 60 min, 1 of",
        "invalid input syntax for type integer: \"many\"",
    ] {
        assert!(status.contains(expected), "{expected}: {status}");
    }
    alter("- 'maxchunks_to_compress'").await;
    until_true("a job that succeeds", async || !is_failing().await).await;
    assert!(
        !stores
            .admin(&["status"])
            .stdout
            .contains("warning: the compress policy")
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_scheduler_that_stops_is_replaced_until_it_starts_again() {
    let Some(stores) = stores().await else { return };
    let worker = stores.worker_with(&["admin.policy_interval=1s"]);
    worker.ready().await;
    stores
        .database
        .execute("SELECT _timescaledb_functions.stop_background_workers()")
        .await;
    worker.logged("TimescaleDB's scheduler has stopped").await;
    let runs = r#"aggregator_admin_policy_runs_total{kind="refresh"}"#;
    let before = worker.metric(runs).await;
    until_true("policies run by the worker", async || {
        worker.metric(runs).await > before
    })
    .await;
    stores
        .database
        .execute("SELECT _timescaledb_functions.start_background_workers()")
        .await;
    worker.logged("TimescaleDB's scheduler has started").await;
    worker.stop().await;
}

#[tokio::test]
async fn jobs_run_at_the_applied_intervals() {
    let Some(stores) = stores().await else { return };
    let settings = [
        "apply",
        "--set",
        "admin.policy_interval=1s",
        "--set",
        "admin.refresh_every=2s",
        "--set",
        "admin.compress_every=2s",
    ];
    let applied = stores.admin(&settings);
    assert_eq!(applied.code, Some(0), "{}", applied.stderr);
    let runs = "SELECT coalesce(min(total_runs), 0) FROM timescaledb_information.jobs
        LEFT JOIN timescaledb_information.job_stats USING (job_id)
        WHERE proc_name IN ('policy_refresh_continuous_aggregate', 'policy_compression')";
    until_true("three runs of each job", async || {
        stores.database.number(runs).await >= 3
    })
    .await;
    assert_eq!(stores.admin(&["apply"]).code, Some(0));
    let soon = "SELECT count(*) FROM timescaledb_information.job_stats
        WHERE job_id >= 1000 AND next_start < now() + INTERVAL '1 minute'";
    until_true("no job that starts within a minute", async || {
        stores.database.number(soon).await == 0
    })
    .await;
}

#[tokio::test]
async fn a_schema_is_reverted_while_its_jobs_run() {
    let Some(stores) = stores().await else { return };
    for _ in 0..3 {
        stores.database.execute(HISTORY).await;
        stores.database.execute(EVERY_SECOND).await;
        let reverted = stores.admin(&["migrate", "--down", "--yes"]);
        assert_eq!(reverted.code, Some(0), "{}", reverted.stderr);
        assert_eq!(stores.admin(&["migrate"]).code, Some(0));
    }
}
