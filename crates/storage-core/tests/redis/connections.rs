//! Connections after they broke.

use redis::cmd;
use storage_core::redis::connection::Connection;
use storage_core::redis::stream::{self, Stream};
use storage_core::testing::cluster::{TestCluster, ask};
use storage_core::testing::redis::TestRedis;

#[tokio::test]
async fn a_connection_reopens_automatically_unless_it_was_opened_once() {
    let redis = TestRedis::start().await;
    let mut again = Connection::ordinary(&redis.config());
    let mut once = Connection::open_once(&redis.config()).await.unwrap();
    let ping = async |conn: &mut Connection| cmd("PING").query_async::<()>(conn).await;
    ping(&mut again).await.unwrap();
    ping(&mut once).await.unwrap();

    let mut kill = cmd("CLIENT");
    kill.arg("KILL").arg("TYPE").arg("normal");
    kill.query_async::<()>(&mut redis.connect()).await.unwrap();

    ping(&mut again).await.unwrap_err();
    ping(&mut again).await.unwrap();
    ping(&mut once).await.unwrap_err();
    ping(&mut once).await.unwrap_err();
}

#[tokio::test]
async fn a_transaction_finds_the_new_master_of_a_slot() {
    let cluster = TestCluster::start(2).await;
    let mut conn = cluster.connect();
    let [one, other] = [0, 1].map(|at| cluster.masters[at].connect());
    let stream = Stream::Ticks(0);
    let entries = [vec![("symbol", "A".to_owned())]];
    stream::add_all(&mut conn, stream, &entries).await.unwrap();

    let slot: u16 = ask(&mut conn, &["CLUSTER", "KEYSLOT", &stream.key().to_string()]).await;
    let (mut from, mut to) = if slot < 8_192 { (one, other) } else { (other, one) };
    let id: String = ask(&mut to, &["CLUSTER", "MYID"]).await;
    ask::<()>(&mut from, &["DEL", &stream.key().to_string()]).await;
    for master in [&mut to, &mut from] {
        ask::<()>(master, &["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &id]).await;
    }
    let first = stream::add_all(&mut conn, stream, &entries).await;
    assert!(first.is_err(), "the driver follows no redirection in a transaction");
    stream::add_all(&mut conn, stream, &entries).await.unwrap();
    let added: u64 = ask(&mut to, &["XLEN", &stream.key().to_string()]).await;
    assert_eq!(added, 1);
}
