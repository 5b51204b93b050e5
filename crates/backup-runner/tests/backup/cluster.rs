//! Backup of a Redis Cluster, and its restore into a cluster of another size and into one server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use storage_core::config::redis::RedisConfig;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::testing::cluster::{TestCluster, ask};
use storage_core::testing::polling::until_true;
use storage_core::testing::redis::TestRedis;

use crate::support::{Runner, flip_a_byte};

/// Keys on different masters.
const POSITION: &str = "position";
const EFFECT: &str = "an effect";

async fn fill(conn: &mut Connection) {
    functions::load(conn).await.unwrap();
    for number in 0..300 {
        ask::<()>(conn, &["SET", &format!("key:{number}"), "value", "PX", "3600000"]).await;
    }
    ask::<()>(conn, &["SET", "stream:partitions", "2"]).await;
    for stream in ["stream:ticks:0", "stream:ticks:1", "stream:signals"] {
        ask::<()>(conn, &["XADD", stream, "5-1", "symbol", "A"]).await;
        ask::<()>(conn, &["XADD", stream, "5-2", "symbol", "B"]).await;
        ask::<()>(conn, &["XGROUP", "CREATE", stream, "hot-writer", "5-1"]).await;
    }
}

/// Returns all keys with their values, from all masters.
async fn contents(conn: &mut Connection) -> Vec<String> {
    let mut found = Vec::new();
    for number in 0..300 {
        let expires: i64 = ask(conn, &["PEXPIRETIME", &format!("key:{number}")]).await;
        found.push(format!("{number} {expires}"));
    }
    for stream in ["stream:ticks:0", "stream:ticks:1", "stream:signals"] {
        let entries: redis::Value = ask(conn, &["XRANGE", stream, "-", "+"]).await;
        let groups: redis::Value = ask(conn, &["XINFO", "GROUPS", stream]).await;
        found.push(format!("{entries:?} {groups:?}"));
    }
    found.push(ask(conn, &["GET", "stream:partitions"]).await);
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_comes_back_as_a_cluster_of_another_size_and_as_one_server() {
    let from = TestCluster::start(3).await;
    let mut source = from.connect();
    fill(&mut source).await;
    let runner = Runner::new().redis(&from.url);
    let printed = runner.done(&["backup", "redis"]);
    assert!(printed.contains("304 keys, 6 stream entries"), "{printed}");
    assert!(runner.done(&["verify"]).contains("whole"));
    let manifest = &runner.manifests()[0];
    let masters = manifest["content"]["masters"].as_array().unwrap();
    assert_eq!(masters.len(), 3, "{manifest}");
    let keys = |master: &serde_json::Value| master["keys"].as_u64().unwrap();
    assert!(masters.iter().all(|master| keys(master) > 0), "{manifest}");
    assert_eq!(masters.iter().map(keys).sum::<u64>(), 304);
    assert_eq!(manifest["files"].as_array().unwrap().len(), 3);

    let smaller = TestCluster::start(2).await;
    let one = TestRedis::start_with(&[]).await;
    let expected = contents(&mut source).await;
    for (url, servers) in [
        (smaller.url.as_str(), &smaller.masters[..]),
        (one.url(), std::slice::from_ref(&one)),
    ] {
        let runner = Runner::of(&runner).redis(url);
        let printed = runner.done(&["restore", "redis", "latest"]);
        assert!(
            printed.contains("restored 304 keys, 3 streams with 6 entries"),
            "{printed}"
        );
        assert_eq!(
            contents(&mut Connection::ordinary(&RedisConfig::at(url).unwrap())).await,
            expected
        );
        for server in servers {
            functions::check(&mut server.connect()).await.unwrap();
        }
        let refusal = runner.failed(&["restore", "redis", "latest"]);
        assert!(refusal.contains("is not empty: it holds"), "{refusal}");
    }

    flip_a_byte(&runner.only("redis").join("dump-1.rdb"));
    let complaint = runner.failed(&["verify"]);
    assert!(complaint.contains("dump-1.rdb was changed"), "{complaint}");
}

/// A worker writes the effects of an entry before it moves its position behind the entry, so a backup with the position
/// alone would have lost the effects.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_cluster_is_of_one_moment_while_keys_are_written() {
    let from = TestCluster::start(3).await;
    let (at_work, written) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicI64::new(0)));
    let writer = {
        let (mut conn, at_work, written) = (from.connect(), at_work.clone(), written.clone());
        tokio::spawn(async move {
            while at_work.load(Ordering::Relaxed) {
                let number = written.load(Ordering::Relaxed) + 1;
                ask::<()>(&mut conn, &["SET", EFFECT, &number.to_string()]).await;
                ask::<()>(&mut conn, &["SET", POSITION, &number.to_string()]).await;
                written.store(number, Ordering::Relaxed);
            }
        })
    };
    until_true("the first writes", async || written.load(Ordering::Relaxed) > 100).await;
    let runner = Runner::new().redis(&from.url);
    for _ in 0..5 {
        runner.done(&["backup", "redis"]);
    }
    let before_the_end = written.load(Ordering::Relaxed);
    until_true("writes that go on", async || {
        written.load(Ordering::Relaxed) > before_the_end
    })
    .await;
    at_work.store(false, Ordering::Relaxed);
    writer.await.unwrap();

    for manifest in runner.manifests() {
        let to = TestRedis::start_with(&[]).await;
        let name = manifest["name"].as_str().unwrap();
        Runner::of(&runner).redis(to.url()).done(&["restore", "redis", name]);
        let mut conn = to.connect();
        let effect: i64 = ask(&mut conn, &["GET", EFFECT]).await;
        let position: i64 = ask(&mut conn, &["GET", POSITION]).await;
        assert!(
            position == effect || position + 1 == effect,
            "the position is {position} and the effect {effect}"
        );
    }
}
