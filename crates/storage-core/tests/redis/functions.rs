//! Tests of `redis/functions.lua`: late writes of a stalled writer change nothing.

use std::time::Duration;

use redis::cmd;
use storage_core::domain::candle::Candle;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::repairs::Base;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions::{self, Expiry, Put, PutResult};
use storage_core::redis::groups;
use storage_core::redis::hot::{self, Epoch, RestoredBase};
use storage_core::redis::keys::{self, Key};
use storage_core::redis::lease::Membership;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{self, HOT_WRITER, Stream};
use storage_core::testing::redis::TestRedis;

async fn prepared() -> (TestRedis, Connection) {
    let redis = TestRedis::start().await;
    let mut conn = redis.connect();
    functions::load(&mut conn).await.unwrap();
    (redis, conn)
}

fn symbol(name: &str) -> Symbol {
    name.parse().unwrap()
}

fn candle_key() -> Key {
    keys::candle_current(Timeframe::M1, &symbol("A"))
}

/// Writes the hash of a candle. Returns `false` if it was refused.
async fn put(conn: &mut Connection, revision: i64, is_final: bool) -> bool {
    let fields = vec![
        ("revision", revision.to_string()),
        ("final", u8::from(is_final).to_string()),
    ];
    let revision = Revision::try_from(revision).unwrap();
    functions::put(&candle_key(), revision, Expiry::AfterMs(60_000), None, &fields)
        .query_async(conn)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_key_of_another_type_is_moved_aside_and_its_neighbours_are_written() {
    let (_redis, mut conn) = prepared().await;
    let keys = ["A", "B", "C"].map(|name| keys::tick_latest(&symbol(name)));
    cmd("LPUSH").arg(&keys[1]).arg("x").exec_async(&mut conn).await.unwrap();
    let puts = keys.clone().map(|key| Put {
        key,
        channel: keys::tick_channel(&symbol("A")),
        message: String::new(),
        revision: Revision::try_from(9).unwrap(),
        base: None,
        ttl_ms: 60_000,
        renews_ttl: true,
        fields: vec![("price", "1".to_owned())],
    });
    assert_eq!(hot::put_all(&mut conn, &puts).await.unwrap(), [PutResult::Written; 3]);
    for key in &keys {
        assert_eq!(hot::hash(&mut conn, key).await.unwrap()["price"], "1");
    }
    let aside = format!("foreign:{{{}}}", keys[1]);
    let kept: Vec<String> = cmd("LRANGE")
        .arg(&aside)
        .arg(0)
        .arg(-1)
        .query_async(&mut conn)
        .await
        .unwrap();
    assert_eq!(kept, ["x"]);
    assert!(cmd("PTTL").arg(aside).query_async::<i64>(&mut conn).await.unwrap() > 0);

    // The same with a single hash, and when candles are read.
    cmd("SET")
        .arg(candle_key())
        .arg("x")
        .exec_async(&mut conn)
        .await
        .unwrap();
    assert_eq!(hot::candles(&mut conn, &[candle_key()]).await.unwrap(), [None]);
    assert!(put(&mut conn, 9, false).await);
    assert_eq!(hot::hash(&mut conn, &candle_key()).await.unwrap()["revision"], "9");
}

#[tokio::test]
async fn a_hash_changes_neither_to_an_older_revision_nor_from_final_to_open() {
    let (_redis, mut conn) = prepared().await;
    assert!(put(&mut conn, 9, false).await);
    assert!(!put(&mut conn, 8, true).await);
    assert!(put(&mut conn, 10, false).await);
    assert!(put(&mut conn, 10, true).await);
    assert!(!put(&mut conn, 10, false).await);
    assert_eq!(hot::hash(&mut conn, &candle_key()).await.unwrap()["final"], "1");
    assert!(put(&mut conn, 11, false).await);
}

#[tokio::test]
async fn an_earlier_epoch_removes_no_symbol_of_a_later_one() {
    let (_redis, mut conn) = prepared().await;
    let [a, b, c] = ["A", "B", "C"].map(symbol);
    let (earlier, open) = Epoch::begin(&mut conn, 0).await.unwrap();
    assert!(open.is_empty());
    earlier.mark_open([&a, &c]).exec_async(&mut conn).await.unwrap();

    let (later, open) = Epoch::begin(&mut conn, 0).await.unwrap();
    assert_eq!(open, [a.clone(), c.clone()]);
    later.mark_open([&b]).exec_async(&mut conn).await.unwrap();
    later.mark_closed([&c]).exec_async(&mut conn).await.unwrap();
    earlier.mark_closed([&a, &b]).exec_async(&mut conn).await.unwrap();
    earlier.mark_open([&b]).exec_async(&mut conn).await.unwrap();
    earlier.mark_closed([&b]).exec_async(&mut conn).await.unwrap();

    let (_, open) = Epoch::begin(&mut conn, 0).await.unwrap();
    assert_eq!(open, [a, b]);
}

#[tokio::test]
async fn the_index_of_an_earlier_version_is_converted() {
    let (_redis, mut conn) = prepared().await;
    let mut earlier = cmd("SADD");
    earlier.arg(keys::open_symbols(3)).arg("A").arg("B");
    earlier.exec_async(&mut conn).await.unwrap();
    let (epoch, mut open) = Epoch::begin(&mut conn, 3).await.unwrap();
    open.sort();
    assert_eq!(open, [symbol("A"), symbol("B")]);
    epoch.mark_closed(&open).exec_async(&mut conn).await.unwrap();
    assert!(Epoch::begin(&mut conn, 3).await.unwrap().1.is_empty());
}

#[tokio::test]
async fn a_position_moves_only_from_the_expected_one() {
    let (_redis, mut conn) = prepared().await;
    let stream = Stream::Ticks(0);
    groups::create(&mut conn, stream, HOT_WRITER).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..3 {
        let id: String = stream::add(stream, &[("a", "b".to_owned())])
            .query_async(&mut conn)
            .await
            .unwrap();
        ids.push(id.parse::<StreamId>().unwrap());
    }
    for (from, to, count) in [
        (StreamId::START, ids[1], 2),
        (StreamId::START, ids[1], 2),
        (StreamId::START, ids[0], 1),
        (ids[0], ids[2], 2),
        // An entry that this server never had.
        (ids[1], ids[2].next(), 2),
    ] {
        let at = functions::advance(&mut conn, stream, HOT_WRITER, from, to, count).await;
        assert_eq!(at.unwrap(), ids[1]);
        let position = position_of(&mut conn, stream, HOT_WRITER).await.unwrap().unwrap();
        assert_eq!((position.delivered, position.lag), (ids[1], Some(1)));
    }
}

#[tokio::test]
async fn a_member_with_a_time_in_the_future_expires() {
    let (_redis, mut conn) = prepared().await;
    let mut ahead = cmd("HSET");
    ahead.arg(keys::members(HOT_WRITER)).arg("b").arg(i64::MAX / 1_000_000);
    ahead.exec_async(&mut conn).await.unwrap();
    let member = Membership::new(HOT_WRITER, "a".to_owned(), Duration::from_millis(300));
    assert_eq!(member.share(&mut conn, 4).await.unwrap(), [0, 1]);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while member.share(&mut conn, 4).await.unwrap().len() < 4 {
        assert!(std::time::Instant::now() < deadline, "b does not expire");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_redis_is_complete_since_the_first_request_unless_it_was_new() {
    let (_redis, mut conn) = prepared().await;
    let since_ms = hot::complete_since(&mut conn, 0).await.unwrap();
    assert!(since_ms > 1_700_000_000_000);
    hot::complete_from_start(0).exec_async(&mut conn).await.unwrap();
    assert_eq!(hot::complete_since(&mut conn, 0).await.unwrap(), since_ms);
    hot::complete_from_start(1).exec_async(&mut conn).await.unwrap();
    assert_eq!(hot::complete_since(&mut conn, 1).await.unwrap(), 0);
}

#[tokio::test]
async fn every_base_is_read_as_it_was_written_in_any_order() {
    let (_redis, mut conn) = prepared().await;
    let mut base = Base {
        symbol: symbol("A"),
        timeframe: Timeframe::H1,
        start_us: 0,
        revision: 9.try_into().unwrap(),
    };
    let candle = Candle::of_tick(Timeframe::H1, 5, 1.5, "2".parse().unwrap(), 7.try_into().unwrap());
    for (number, candle) in [(9, Some(candle.clone())), (10, None), (8, Some(candle))] {
        base.revision = number.try_into().unwrap();
        hot::put_base(&base, candle.as_ref())
            .exec_async(&mut conn)
            .await
            .unwrap();
        let read = hot::bases(&mut conn, std::slice::from_ref(&base)).await.unwrap();
        let revision = base.revision;
        let candle = candle.map(|candle| Candle { revision, ..candle });
        assert_eq!(read, [Some(RestoredBase(candle))]);
    }
}
