//! Checks of both stores before the worker starts.

use std::time::Duration;

use storage_core::config::postgres::PostgresConfig;
use storage_core::config::redis::RedisConfig;
use storage_core::domain::database_identity::DatabaseIdentity;
use storage_core::postgres::edition::Edition;
use storage_core::redis::{database as noted, functions, partitions, refresh_windows};
use storage_core::testing::polling::until_true;
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::process::free_port;
use storage_core::testing::redis::TestRedis;

use crate::harness::{PARTITIONS, Stores, program};

/// Returns the configuration of a database on a port without a server.
fn no_database() -> PostgresConfig {
    PostgresConfig::at("postgres://postgres@127.0.0.1:1/market").unwrap()
}

/// Starts a worker, and returns its exit code and log.
async fn ended(redis: &RedisConfig, database: &PostgresConfig) -> (Option<i32>, String) {
    let worker = program(redis, database).start("one");
    (worker.ended().await.code(), worker.log())
}

async fn redis_with(partitions: u16) -> TestRedis {
    let redis = TestRedis::start().await;
    partitions::store_once(&mut redis.connect(), partitions).await.unwrap();
    functions::load(&mut redis.connect()).await.unwrap();
    redis
}

#[tokio::test]
async fn missing_functions_name_the_command() {
    let redis = TestRedis::start().await;
    partitions::store_once(&mut redis.connect(), PARTITIONS).await.unwrap();
    let (code, log) = ended(&redis.config(), &no_database()).await;
    assert_eq!(code, Some(64), "{log}");
    assert!(log.contains("run `aggregator-admin migrate`"), "{log}");
}

#[tokio::test]
async fn another_number_of_partitions_is_wrong_configuration() {
    let redis = redis_with(8).await;
    let (code, log) = ended(&redis.config(), &no_database()).await;
    assert_eq!(code, Some(64), "{log}");
    assert!(
        log.contains("partitions is 8 in Redis but 2 in the configuration"),
        "{log}"
    );
}

#[tokio::test]
async fn a_missing_schema_names_the_command() {
    let Some(database) = TestDatabase::start_empty(Edition::Apache).await else {
        return;
    };
    let redis = redis_with(PARTITIONS).await;
    let (code, log) = ended(&redis.config(), &database.config()).await;
    assert_eq!(code, Some(64), "{log}");
    assert!(log.contains("run `aggregator-admin migrate`"), "{log}");
}

#[tokio::test]
async fn another_database_than_that_of_redis_is_refused() {
    for database in TestDatabase::start_each().await {
        let redis = redis_with(PARTITIONS).await;
        let (code, log) = ended(&redis.config(), &database.config()).await;
        assert_eq!(code, Some(64), "{log}");
        assert!(log.contains("run `aggregator-admin migrate`"), "{log}");

        let other = DatabaseIdentity::new("another@1/2");
        noted::store_once(&mut redis.connect(), &other).await.unwrap();
        let (code, log) = ended(&redis.config(), &database.config()).await;
        assert_eq!(code, Some(64), "{log}");
        assert!(log.contains("Redis belongs to database another@1/2"), "{log}");
        assert!(log.contains("migrate --adopt-database`"), "{log}");
    }
}

#[tokio::test]
async fn a_worker_ends_when_another_database_takes_the_place_of_its_own() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let worker = stores.worker("warm-1");
    worker.logged("serving").await;
    let other = DatabaseIdentity::new("another@1/2");
    noted::replace(&mut stores.redis.connect(), &other).await.unwrap();
    let (code, log) = (worker.ended().await.code(), worker.log());
    assert_eq!(code, Some(64), "{log}");
    assert!(log.contains("Redis belongs to database another@1/2"), "{log}");
}

#[tokio::test]
async fn a_wrong_password_of_redis_is_logged_and_ends_it() {
    let redis = redis_with(PARTITIONS).await;
    let url = redis.url().replace("redis://", "redis://intruder:secret-word@");
    let (code, log) = ended(&RedisConfig::at(&url).unwrap(), &no_database()).await;
    assert_eq!(code, Some(64), "{log}");
    assert!(
        log.contains("WRONGPASS") || log.to_lowercase().contains("password"),
        "{log}"
    );
    assert!(!log.contains("secret-word"), "{log}");
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_logged_and_ends_it() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let redis = redis_with(PARTITIONS).await;
    let (before, _) = database.url().rsplit_once('/').unwrap();
    let nowhere = PostgresConfig::at(&format!("{before}/nowhere?sslmode=disable")).unwrap();
    let (code, log) = ended(&redis.config(), &nowhere).await;
    assert_eq!(code, Some(64), "{log}");
    assert!(log.contains("create the database"), "{log}");
}

#[tokio::test]
async fn stores_that_are_down_are_waited_for() {
    let port = free_port().unwrap();
    let no_redis = RedisConfig::at(&format!("redis://127.0.0.1:{port}")).unwrap();
    let worker = program(&no_redis, &no_database()).start("one");
    until_true("/readyz names Redis", async || {
        worker.get("/readyz").await.1.contains("redis: ")
    })
    .await;
    assert!(worker.get("/healthz").await.1.contains("alive"));
    worker.stop().await;

    let redis = redis_with(PARTITIONS).await;
    let worker = program(&redis.config(), &no_database()).start("one");
    until_true("/readyz names PostgreSQL", async || {
        let (_, body) = worker.get("/readyz").await;
        body.contains("postgres: cannot use PostgreSQL at")
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn every_metric_shows_from_the_start() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let worker = stores.worker("one");
    worker.ready().await;
    for name in [
        "warm_syncer_entries_read_total{kind=\"candles\"}",
        "warm_syncer_rows_written_total{kind=\"ticks\"}",
        "warm_syncer_rows_unchanged_total{kind=\"signals\"}",
        "warm_syncer_batches_total{kind=\"dead\"}",
        "warm_syncer_batch_seconds_count{kind=\"candles\"}",
        "warm_syncer_commit_seconds_count{kind=\"candles\"}",
        "warm_syncer_batch_rows_count{kind=\"candles\"}",
        "warm_syncer_retries_total{store=\"postgres\"}",
        "warm_syncer_dead_letters_total{kind=\"candles\",reason=\"too_large\"}",
        "warm_syncer_repairs_requested_total",
        "warm_syncer_rollups_requested_total",
        "warm_syncer_lag_entries{kind=\"ticks\"}",
    ] {
        assert_eq!(worker.metric(name).await, 0.0, "{name}");
    }
}

#[tokio::test]
async fn a_refresh_window_that_no_policy_reaches_is_wrong_configuration() {
    let Some(database) = TestDatabase::start(Edition::Community).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let with_window = |window: &str| {
        stores
            .program()
            .setting(&format!("warm.refresh_window={window}"))
            .start("one")
    };
    // Of the 4 days one is for the largest bucket, and 3h20m until the five policies have run one after another.
    let refused = with_window("3days");
    assert_eq!(refused.ended().await.code(), Some(64), "{}", refused.log());
    let reason = "warm.refresh_window is 3days but must be at most 2days 20h 40m";
    assert!(refused.log().contains(reason), "{}", refused.log());

    let accepted = with_window("2days20h40m");
    until_true("the window is announced", async || {
        let announced = refresh_windows::announced(&mut stores.redis.connect()).await.unwrap();
        announced.values().eq([&Duration::from_secs((68 * 60 + 40) * 60)])
    })
    .await;
    accepted.stop().await;
}
