//! Checks before the worker starts.

use storage_core::redis::{functions, partitions};
use storage_core::testing::program::Program;
use storage_core::testing::redis::TestRedis;

use crate::worker;

/// Starts the worker, waits until it has exited, and returns its exit code and log.
async fn exited(program: &Program) -> (Option<i32>, String) {
    let worker = program.start("one");
    (worker.ended().await.code(), worker.log())
}

#[tokio::test]
async fn a_redis_without_a_number_of_partitions_names_the_command() {
    let redis = TestRedis::start().await;
    let (code, log) = exited(&worker(&redis)).await;
    assert_eq!(code, Some(64), "{log}");
    assert!(log.contains("run `aggregator-admin migrate`"), "{log}");
}

#[tokio::test]
async fn missing_functions_name_the_command() {
    let redis = TestRedis::start().await;
    partitions::store_once(&mut redis.connect(), 1).await.unwrap();
    let (code, log) = exited(&worker(&redis)).await;
    assert_eq!(code, Some(64), "{log}");
    assert!(log.contains("run `aggregator-admin migrate`"), "{log}");
}

#[tokio::test]
async fn another_number_of_partitions_is_wrong_configuration() {
    let redis = TestRedis::prepared(8).await;
    let (code, log) = exited(&worker(&redis)).await;
    assert_eq!(code, Some(64), "{log}");
    assert!(
        log.contains("partitions is 8 in Redis but 1 in the configuration"),
        "{log}"
    );
}

#[tokio::test]
async fn a_redis_that_may_evict_streams_is_refused() {
    let redis = TestRedis::start_with(&["--maxmemory-policy", "allkeys-lru"]).await;
    partitions::store_once(&mut redis.connect(), 1).await.unwrap();
    functions::load(&mut redis.connect()).await.unwrap();
    let (code, log) = exited(&worker(&redis)).await;
    assert_eq!(code, Some(64), "{log}");
    assert!(log.contains("maxmemory-policy"), "{log}");
}

#[tokio::test]
async fn a_wrong_password_is_wrong_configuration() {
    let redis = TestRedis::start_with(&[]).await;
    let mut password = redis::cmd("CONFIG");
    password.arg("SET").arg("requirepass").arg("secret");
    password.exec_async(&mut redis.connect()).await.unwrap();
    let (code, log) = exited(&worker(&redis)).await;
    assert_eq!(code, Some(64), "{log}");
}

#[tokio::test]
async fn an_invalid_setting_is_wrong_configuration() {
    let redis = TestRedis::start().await;
    for setting in ["stream.partitions=none", "hot.lease_ttl=soon"] {
        let (code, log) = exited(&worker(&redis).setting(setting)).await;
        assert_eq!(code, Some(64), "{setting}: {log}");
    }
}
