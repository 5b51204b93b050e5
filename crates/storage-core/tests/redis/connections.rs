//! Connections after they broke.

use redis::cmd;
use storage_core::redis::connection::Connection;
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
