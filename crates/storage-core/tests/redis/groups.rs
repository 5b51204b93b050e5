//! Reading as a consumer of a group: pending entries of other consumers, deleted entries, idle consumers.

use std::time::Duration;

use redis::cmd;
use storage_core::domain::entry::Entry;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::redis::clock::now_ms;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::redis::group_reader::{GroupReader, GroupReaderOptions};
use storage_core::redis::groups::{self, groups};
use storage_core::redis::lost::Losses;
use storage_core::redis::position::{last_added, position_of};
use storage_core::redis::stream::{self, Stream, WARM_SYNCER};
use storage_core::telemetry::readiness::Readiness;
use storage_core::testing::redis::TestRedis;

const STREAM: Stream = Stream::Candles(0);

fn reader(redis: &TestRedis, consumer: &str, claim_after: Duration) -> GroupReader {
    let options = GroupReaderOptions {
        group: WARM_SYNCER,
        consumer: consumer.to_owned(),
        batch: 2,
        block: Duration::from_millis(20),
        claim_after,
        losses: Losses::new(&crate::LOST, &Readiness::default()),
    };
    GroupReader::new(&redis.config(), STREAM, options)
}

async fn with_entries(count: usize) -> (TestRedis, Connection) {
    let redis = TestRedis::start().await;
    let mut conn = redis.connect();
    functions::load(&mut conn).await.unwrap();
    groups::create(&mut conn, STREAM, WARM_SYNCER).await.unwrap();
    for _ in 0..count {
        stream::add(STREAM, &[("a", "b".to_owned())])
            .exec_async(&mut conn)
            .await
            .unwrap();
    }
    (redis, conn)
}

async fn delete(conn: &mut Connection, entry: &Entry) {
    let mut command = cmd("XDEL");
    command.arg(STREAM.key()).arg(entry.id.to_string());
    command.exec_async(conn).await.unwrap();
}

/// Reads and acknowledges until no entry arrives, and returns the number of entries.
async fn drain(reader: &mut GroupReader) -> usize {
    let (mut read, mut quiet) = (0, 0);
    while quiet < 3 {
        let entries = reader.read().await.unwrap();
        assert!(entries.iter().all(|entry| !entry.is_empty()));
        let ids: Vec<_> = entries.iter().map(|entry| entry.id).collect();
        reader.acknowledge(&ids).await.unwrap();
        quiet = if ids.is_empty() { quiet + 1 } else { 0 };
        read += ids.len();
    }
    read
}

#[tokio::test]
async fn own_pending_entries_that_were_deleted_are_left_out() {
    let (redis, mut conn) = with_entries(5).await;
    let first = reader(&redis, "a", Duration::from_secs(60)).read().await.unwrap();
    assert_eq!(first.len(), 2);
    for entry in &first {
        delete(&mut conn, entry).await;
    }
    assert_eq!(drain(&mut reader(&redis, "a", Duration::from_secs(60))).await, 3);
    assert_eq!(groups(&mut conn, STREAM).await.unwrap()[0].position.pending, 0);
}

#[tokio::test]
async fn pending_entries_of_a_dead_consumer_are_claimed_except_deleted_ones() {
    let (redis, mut conn) = with_entries(5).await;
    let left = reader(&redis, "dead", Duration::from_secs(60)).read().await.unwrap();
    delete(&mut conn, &left[0]).await;
    assert_eq!(drain(&mut reader(&redis, "b", Duration::from_millis(1))).await, 4);
    assert_eq!(groups(&mut conn, STREAM).await.unwrap()[0].position.pending, 0);
}

async fn consumers(conn: &mut Connection) -> Vec<String> {
    let mut command = cmd("XINFO");
    command.arg("CONSUMERS").arg(STREAM.key()).arg(WARM_SYNCER);
    let consumers: Vec<std::collections::HashMap<String, redis::Value>> = command.query_async(conn).await.unwrap();
    let name = |mut consumer: std::collections::HashMap<String, redis::Value>| consumer.remove("name").unwrap();
    consumers
        .into_iter()
        .map(|consumer| redis::from_redis_value(name(consumer)).unwrap())
        .collect()
}

#[tokio::test]
async fn an_idle_consumer_without_pending_entries_is_removed() {
    let (redis, mut conn) = with_entries(3).await;
    drain(&mut reader(&redis, "finished", Duration::from_secs(60))).await;
    stream::add(STREAM, &[("a", "b".to_owned())])
        .exec_async(&mut conn)
        .await
        .unwrap();
    let unfinished = reader(&redis, "unfinished", Duration::from_secs(60))
        .read()
        .await
        .unwrap();
    assert_eq!(unfinished.len(), 1);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let retired: Vec<String> = {
            // The idle time of a reader whose `claim_after` is a tenth of it.
            let mut command = cmd("FCALL");
            command
                .arg("storage_retire")
                .arg(1)
                .arg(STREAM.key())
                .arg(WARM_SYNCER)
                .arg(30);
            command.query_async(&mut conn).await.unwrap()
        };
        if !retired.is_empty() {
            assert_eq!(retired, ["finished"]);
            break;
        }
        assert!(std::time::Instant::now() < deadline, "no consumer is removed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(consumers(&mut conn).await, ["unfinished"]);
}

#[tokio::test]
async fn a_reader_removes_idle_consumers() {
    let (redis, mut conn) = with_entries(1).await;
    drain(&mut reader(&redis, "gone", Duration::from_secs(60))).await;
    let mut live = reader(&redis, "live", Duration::from_millis(5));
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while consumers(&mut conn).await.contains(&"gone".to_owned()) {
        drain(&mut live).await;
        assert!(
            std::time::Instant::now() < deadline,
            "the other consumer is not removed"
        );
    }
}

#[tokio::test]
async fn a_group_at_the_end_of_its_stream_has_no_lag_even_if_redis_reports_one() {
    let (_redis, mut conn) = with_entries(5).await;
    let lag = async |conn: &mut Connection| {
        let position = position_of(conn, STREAM, WARM_SYNCER).await.unwrap().unwrap();
        position.lag.unwrap()
    };
    // The state after a crash behind a rewrite of the append-only file: Redis has lost three of the entries read.
    let last = stream::range(&mut conn, STREAM, StreamId::START, StreamId::END, 5)
        .await
        .unwrap()[4]
        .id;
    let mut forget = cmd("XGROUP");
    forget
        .arg("SETID")
        .arg(STREAM.key())
        .arg(WARM_SYNCER)
        .arg(last.to_string());
    forget.arg("ENTRIESREAD").arg(2).exec_async(&mut conn).await.unwrap();
    assert_eq!(lag(&mut conn).await, 0);
    stream::add(STREAM, &[("a", "b".to_owned())])
        .exec_async(&mut conn)
        .await
        .unwrap();
    assert!(lag(&mut conn).await > 0);
}

#[tokio::test]
async fn ids_are_reset_once_every_group_has_finished_the_entry_of_the_far_future() {
    let (redis, mut conn) = with_entries(2).await;
    let far = StreamId::at_ms(1 << 41);
    for id in [far.to_string(), "*".to_owned()] {
        let mut command = cmd("XADD");
        command.arg(STREAM.key()).arg(id).arg("a").arg("b");
        command.exec_async(&mut conn).await.unwrap();
    }
    // Not the time of the first entries.
    let now = StreamId::at_ms(now_ms(&mut conn).await.unwrap() + 1_000);
    let refused = functions::reset_ids(&mut conn, STREAM, Revision::LIMIT, now)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("warm-syncer has not finished"),
        "{refused}"
    );

    assert_eq!(drain(&mut reader(&redis, "one", Duration::from_secs(60))).await, 4);
    for removed in [2, 0] {
        let reset = functions::reset_ids(&mut conn, STREAM, Revision::LIMIT, now).await;
        assert_eq!(reset.unwrap(), removed);
    }
    stream::add(STREAM, &[("a", "b".to_owned())])
        .exec_async(&mut conn)
        .await
        .unwrap();
    let last = last_added(&mut conn, STREAM).await.unwrap();
    assert!(now < last && last < Revision::LIMIT, "{last}");
    let position = position_of(&mut conn, STREAM, WARM_SYNCER).await.unwrap().unwrap();
    assert_eq!((position.delivered, position.lag), (now, Some(1)));
    assert_eq!(drain(&mut reader(&redis, "one", Duration::from_secs(60))).await, 1);
}
