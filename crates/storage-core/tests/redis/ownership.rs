//! Ownership of partitions.

use std::time::Duration;

use storage_core::redis::ownership::Ownership;
use storage_core::redis::{functions, partitions};
use storage_core::telemetry::readiness::Readiness;
use storage_core::testing::redis::TestRedis;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_partition_whose_task_has_ended_is_acquired_again() {
    let redis = TestRedis::start().await;
    functions::load(&mut redis.connect()).await.unwrap();
    partitions::store_once(&mut redis.connect(), 2).await.unwrap();
    let config = redis.config();
    let ownership = Ownership {
        redis: &config,
        worker: "hot-writer",
        instance: "a".to_owned(),
        partitions: 2,
        database: None,
        lease_ttl: Duration::from_millis(500),
        count: &crate::PARTITIONS,
    };
    let (token, readiness) = (CancellationToken::new(), Readiness::default());
    let (begun, mut begins) = mpsc::unbounded_channel();
    let serve = |partition, token: CancellationToken| {
        begun.send(partition).unwrap();
        async move {
            match partition {
                0 => token.cancelled().await,
                _ => panic!("as a test of what follows"),
            }
        }
    };
    let watch = async {
        let mut seen = Vec::new();
        while seen.len() < 4 {
            seen.push(begins.recv().await.unwrap());
        }
        token.cancel();
        seen
    };
    let (owned, seen) = tokio::join!(ownership.run(&readiness, &token, serve), watch);
    owned.unwrap();
    assert_eq!(seen, [0, 1, 1, 1]);
}
