//! Rights of backup-runner, producers and readers.

use storage_core::redis::partitions;
use storage_core::redis::stream::{self, Stream};

use super::{Server, some_fields};

#[tokio::test]
async fn backup_runner_reads_everything_and_changes_nothing() {
    let server = Server::start().await;
    server.tick().await;
    for command in [
        "INFO",
        "CONFIG GET appendonly",
        "SCAN 0",
        "TYPE stream:ticks:0",
        "DUMP stream:ticks:0",
        "PEXPIRETIME stream:ticks:0",
        "XLEN stream:ticks:0",
        "XINFO GROUPS stream:ticks:0",
        "FUNCTION LIST",
        "FUNCTION DUMP",
        "DBSIZE",
        "REPLCONF rdb-only 1",
        "XADD stream:backups * kind redis",
    ] {
        server
            .run("backup-runner", command)
            .await
            .unwrap_or_else(|error| panic!("{command}: {error}"));
    }
    server
        .assert_refused(
            "backup-runner",
            &[
                "FLUSHALL",
                "CONFIG SET dir /tmp",
                "ACL LIST",
                "RESTORE other 0 x",
                "DEL stream:ticks:0",
                "XADD stream:ticks:0 * a b",
                "XTRIM stream:backups MAXLEN 0",
                "FUNCTION FLUSH",
                "REPLICAOF other 6379",
            ],
        )
        .await;
}

#[tokio::test]
async fn producers_only_add() {
    let server = Server::start().await;
    let conn = &mut server.user("feed-handler");
    assert_eq!(partitions::stored(conn).await.unwrap(), Some(2));
    stream::add_all(conn, Stream::Ticks(1), &[some_fields(), some_fields()])
        .await
        .unwrap();
    stream::add_all(conn, Stream::Feeds, &[some_fields()]).await.unwrap();
    stream::add_all(&mut server.user("strategy"), Stream::Signals, &[some_fields()])
        .await
        .unwrap();
    server
        .assert_refused(
            "feed-handler",
            &[
                "XADD stream:signals * a b",
                "XADD stream:candles:0 * a b",
                "XRANGE stream:ticks:0 - +",
                "XTRIM stream:ticks:0 MAXLEN 0",
                "DEL stream:ticks:0",
                "SET stream:partitions 3",
                "SUBSCRIBE tick:BTCUSDT",
            ],
        )
        .await;
    server
        .assert_refused(
            "strategy",
            &[
                "XADD stream:ticks:0 * a b",
                "XRANGE stream:signals - +",
                "HGETALL tick:latest:BTCUSDT",
            ],
        )
        .await;
}

#[tokio::test]
async fn a_reader_only_reads_and_subscribes() {
    let server = Server::start().await;
    for command in [
        "HGETALL tick:latest:BTCUSDT",
        "HMGET candle:current:1m:BTCUSDT open close",
        "HGETALL candle:recent:1m:BTCUSDT:0",
        "PTTL signal:active:BTCUSDT",
        "SCAN 0 MATCH tick:latest:*",
    ] {
        server
            .run("reader", command)
            .await
            .unwrap_or_else(|error| panic!("{command}: {error}"));
    }
    let client = storage_core::redis::connection::client(&server.config("reader"))
        .await
        .unwrap();
    let mut listening = client.get_async_pubsub().await.unwrap();
    listening
        .subscribe(&["tick:BTCUSDT", "candle:1m:BTCUSDT", "signal:BTCUSDT"])
        .await
        .unwrap();
    listening
        .psubscribe(&["tick:*", "candle:*", "candle:1m:*", "candle:1d:*", "signal:*"])
        .await
        .unwrap();
    assert_eq!(listening.subscribe("other").await.unwrap_err().code(), Some("NOPERM"));
    server
        .assert_refused(
            "reader",
            &[
                "HSET tick:latest:BTCUSDT price 1",
                "DEL tick:latest:BTCUSDT",
                "PUBLISH tick:BTCUSDT x",
                "XRANGE stream:ticks:0 - +",
                "XADD stream:signals * a b",
                "GET stream:partitions",
                "KEYS *",
            ],
        )
        .await;
}
