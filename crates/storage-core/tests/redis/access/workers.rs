//! Rights of hot-writer, warm-syncer and aggregator-admin.

use std::time::Duration;

use redis::cmd;
use storage_core::domain::candle::Candle;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::prices::Prices;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::repairs::Base;
use storage_core::redis::functions::{self, Expiry, Put, PutResult};
use storage_core::redis::groups::resume;
use storage_core::redis::lease::{self, Membership};
use storage_core::redis::position::positions;
use storage_core::redis::stream::{self, AGGREGATOR_ADMIN, HOT_WRITER, Stream, WARM_SYNCER};
use storage_core::redis::stream_reader::StreamReader;
use storage_core::redis::symbols::{self, SymbolProperties};
use storage_core::redis::unread::unread;
use storage_core::redis::{clock, groups, hot, inspect, keys, partitions, refresh_windows, trim};

use super::{FIRST_SECOND, Server, some_fields, symbol};

/// Adds an entry that a consumer of warm-syncer's group leaves pending.
async fn leave_pending(server: &Server, stream: Stream) {
    let mut root = server.0.connect();
    stream::add(stream, &some_fields()).exec_async(&mut root).await.unwrap();
    let mut read = cmd("XREADGROUP");
    read.arg("GROUP")
        .arg(WARM_SYNCER)
        .arg("earlier")
        .arg("STREAMS")
        .arg(stream.key())
        .arg(">");
    read.exec_async(&mut root).await.unwrap();
}

#[tokio::test]
async fn hot_writer_writes_the_hot_view_and_trims() {
    let server = Server::start().await;
    let id = server.tick().await;
    let conn = &mut server.user("hot-writer");
    functions::check(conn).await.unwrap();
    partitions::stored(conn).await.unwrap();
    SymbolProperties::load(conn).await.unwrap();
    clock::now_ms(conn).await.unwrap();

    let membership = Membership::new(HOT_WRITER, "test".to_owned(), FIRST_SECOND);
    assert_eq!(membership.share(conn, 2).await.unwrap(), [0, 1]);
    assert!(membership.acquire(conn, 0).await.unwrap());
    membership.release(conn, 0).await.unwrap();
    membership.leave(conn).await.unwrap();

    let mut reader = StreamReader::new(
        &server.config("hot-writer"),
        Stream::Ticks(0),
        StreamId::START,
        FIRST_SECOND,
    );
    assert_eq!(reader.next(10, Duration::from_millis(50)).await.unwrap().len(), 1);
    stream::range(conn, Stream::Ticks(0), StreamId::START, id, 10)
        .await
        .unwrap();
    let revision = Revision::try_from(1).unwrap();
    for (key, channel) in [
        (keys::tick_latest(&symbol()), keys::tick_channel(&symbol())),
        (
            keys::candle_current(Timeframe::M1, &symbol()),
            keys::candle_channel(Timeframe::M1, &symbol()),
        ),
        (
            keys::candle_recent(Timeframe::M1, &symbol(), 0),
            keys::candle_channel(Timeframe::M1, &symbol()),
        ),
        (keys::signal_active(&symbol()), keys::signal_channel(&symbol())),
    ] {
        let put = functions::put(
            &key,
            revision,
            Expiry::AfterMs(60_000),
            Some((&channel, "{}")),
            &some_fields(),
        );
        assert_eq!(put.query_async::<u8>(conn).await.unwrap(), 1);
        hot::candles(conn, std::slice::from_ref(&key)).await.unwrap();
        hot::remove(&key).exec_async(conn).await.unwrap();
    }
    hot::complete_since(conn, 0).await.unwrap();
    let base = Base {
        symbol: symbol(),
        timeframe: Timeframe::M1,
        start_us: 0,
        revision,
    };
    assert_eq!(hot::bases(conn, &[base]).await.unwrap(), [None]);
    let (epoch, _) = hot::Epoch::begin(conn, 0).await.unwrap();
    epoch.mark_open([&symbol()]).exec_async(conn).await.unwrap();
    epoch.mark_closed([&symbol()]).exec_async(conn).await.unwrap();
    for stream in [Stream::Candles(0), Stream::Repairs, Stream::Dead] {
        functions::announce(stream, &some_fields())
            .exec_async(conn)
            .await
            .unwrap();
    }
    let at = functions::advance(conn, Stream::Ticks(0), HOT_WRITER, StreamId::START, id, 1).await;
    assert_eq!(at.unwrap(), id);
    server.read("hot-writer", HOT_WRITER, Stream::Signals).await;
    for stream in Stream::all(2) {
        positions(conn, stream).await.unwrap();
        trim::trim(conn, stream, Duration::ZERO, &mut trim::FutureEnds::default())
            .await
            .unwrap();
    }

    server
        .assert_refused(
            "hot-writer",
            &[
                "FLUSHALL",
                "CONFIG GET *",
                "ACL LIST",
                "KEYS *",
                "SCAN 0",
                "DEL other",
                "SET stream:partitions 3",
                "HSET stream:symbols BTCUSDT 2",
                "XADD stream:rollups * a b",
                "XADD stream:backups * a b",
                "PUBLISH other x",
                "SUBSCRIBE tick:BTCUSDT",
                "FUNCTION FLUSH",
                "EVAL return 0",
            ],
        )
        .await;
}

#[tokio::test]
async fn warm_syncer_moves_its_positions_and_requests_repairs() {
    let server = Server::start().await;
    server.tick().await;
    let conn = &mut server.user("warm-syncer");
    functions::check(conn).await.unwrap();
    partitions::stored(conn).await.unwrap();
    let membership = Membership::new(WARM_SYNCER, "test".to_owned(), FIRST_SECOND);
    membership.share(conn, 2).await.unwrap();
    refresh_windows::announce(conn, "test", FIRST_SECOND).await.unwrap();
    assert!(membership.acquire(conn, 0).await.unwrap());
    membership.release(conn, 0).await.unwrap();
    membership.leave(conn).await.unwrap();
    for stream in [
        Stream::Ticks(0),
        Stream::Candles(0),
        Stream::Signals,
        Stream::Feeds,
        Stream::Dead,
    ] {
        stream::add(stream, &some_fields())
            .exec_async(&mut server.0.connect())
            .await
            .unwrap();
        let from = resume(conn, stream, WARM_SYNCER).await.unwrap();
        let mut reader = StreamReader::new(&server.config("warm-syncer"), stream, from, FIRST_SECOND);
        let entries = reader.next(10, Duration::from_millis(50)).await.unwrap();
        let to = entries.last().unwrap().id;
        let at = functions::advance(conn, stream, WARM_SYNCER, from, to, entries.len()).await;
        assert_eq!(at.unwrap(), to);
        groups::rewind(conn, stream, WARM_SYNCER, StreamId::START)
            .await
            .unwrap();
        assert_eq!(resume(conn, stream, WARM_SYNCER).await.unwrap(), StreamId::START);
        leave_pending(&server, stream).await;
        assert_eq!(resume(conn, stream, WARM_SYNCER).await.unwrap(), StreamId::START);
    }
    for stream in [Stream::Repairs, Stream::Rollups, Stream::Dead, Stream::Ticks(0)] {
        functions::announce_all(conn, stream, &[some_fields()]).await.unwrap();
    }
    let candles = Stream::Candles(0);
    let root = &mut server.0.connect();
    let before = stream::length(root, candles).await.unwrap();
    let announced = server.run("warm-syncer", "FCALL storage_announce 1 stream:candles:0 a b");
    assert!(announced.await.is_err());
    assert_eq!(stream::length(root, candles).await.unwrap(), before);

    server
        .assert_refused(
            "warm-syncer",
            &[
                "XADD stream:candles:0 * a b",
                "XTRIM stream:ticks:0 MAXLEN 0",
                "DEL stream:ticks:0",
                "XGROUP DESTROY stream:ticks:0 hot-writer",
                "HGETALL tick:latest:BTCUSDT",
                "SET stream:partitions 3",
                "PUBLISH tick:BTCUSDT x",
                "FUNCTION FLUSH",
            ],
        )
        .await;
}

#[tokio::test]
async fn aggregator_admin_manages_the_streams_and_reads_the_hot_view() {
    let server = Server::start().await;
    let id = server.tick().await;
    let conn = &mut server.user("aggregator-admin");
    functions::check(conn).await.unwrap();
    partitions::check(partitions::stored(conn).await.unwrap(), 2).unwrap();
    partitions::unfinished(conn, 2).await.unwrap();
    let open = cmd("ZADD").arg(keys::open_symbols(1)).arg(1).arg("BTCUSDT").to_owned();
    open.exec_async(conn).await.unwrap();
    partitions::replace(conn, 2, 1).await.unwrap();
    symbols::store(conn, &symbol(), 2, Prices::Any).await.unwrap();
    symbols::store(conn, &symbol(), 8, Prices::Positive).await.unwrap();
    SymbolProperties::load(conn).await.unwrap();
    lease::holders(conn, HOT_WRITER, 2).await.unwrap();
    lease::members(conn, HOT_WRITER).await.unwrap();
    refresh_windows::announced(conn).await.unwrap();
    let leader = Membership::new(AGGREGATOR_ADMIN, "test".to_owned(), FIRST_SECOND);
    leader.share(conn, 1).await.unwrap();
    assert!(leader.acquire(conn, 0).await.unwrap());
    leader.release(conn, 0).await.unwrap();
    hot::candles(conn, &[keys::candle_current(Timeframe::M1, &symbol())])
        .await
        .unwrap();
    hot::hash(conn, &keys::tick_latest(&symbol())).await.unwrap();
    for (key, channel) in [
        (keys::tick_latest(&symbol()), keys::tick_channel(&symbol())),
        (
            keys::candle_current(Timeframe::M1, &symbol()),
            keys::candle_channel(Timeframe::M1, &symbol()),
        ),
        (
            keys::candle_recent(Timeframe::M1, &symbol(), 0),
            keys::candle_channel(Timeframe::M1, &symbol()),
        ),
    ] {
        let mended = Put {
            key: key.clone(),
            revision: Revision::try_from(1).unwrap(),
            base: None,
            ttl_ms: 60_000,
            renews_ttl: true,
            channel,
            message: "{}".to_owned(),
            fields: some_fields(),
        };
        assert_eq!(hot::put_all(conn, &[mended]).await.unwrap(), [PutResult::Written]);
        hot::remove(&key).exec_async(conn).await.unwrap();
    }
    hot::known_complete_since(conn, 0).await.unwrap();
    assert_eq!(unread(&server.config("aggregator-admin"), 2).await.unwrap(), []);
    hot::complete_from_start(0).exec_async(conn).await.unwrap();
    let base = Base {
        symbol: symbol(),
        timeframe: Timeframe::D1,
        start_us: 0,
        revision: Revision::try_from(7).unwrap(),
    };
    hot::put_base(&base, None).exec_async(conn).await.unwrap();
    for stream in [Stream::Repairs, Stream::Rollups, Stream::Backups] {
        server.read("aggregator-admin", AGGREGATOR_ADMIN, stream).await;
        positions(conn, stream).await.unwrap();
        stream::length(conn, stream).await.unwrap();
    }
    for stream in [Stream::Dead, Stream::Rollups] {
        functions::announce(stream, &some_fields())
            .exec_async(conn)
            .await
            .unwrap();
    }
    for stream in Stream::all(1) {
        groups::groups(conn, stream).await.unwrap();
    }
    groups::destroy(conn, Stream::Ticks(0), "no such group").await.unwrap();
    inspect::memory(conn).await.unwrap();
    let candle = Candle::of_tick(Timeframe::M1, 0, 1.0, Decimal::ZERO, Revision::try_from(1).unwrap());
    hot::publish_final(Timeframe::M1, &symbol(), &candle)
        .exec_async(conn)
        .await
        .unwrap();
    stream::range(conn, Stream::Ticks(0), StreamId::START, id, 1)
        .await
        .unwrap();
    stream::add(Stream::Ticks(0), &some_fields())
        .exec_async(conn)
        .await
        .unwrap();

    server
        .assert_refused(
            "aggregator-admin",
            &[
                "FLUSHALL",
                "CONFIG SET maxmemory 1",
                "ACL LIST",
                "SHUTDOWN",
                "DEL tick:latest:BTCUSDT",
                "HSET signal:active:BTCUSDT side buy",
                "SET lease:hot-writer:0 me",
                "PUBLISH signal:BTCUSDT x",
            ],
        )
        .await;
}
