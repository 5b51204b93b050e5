//! `redis/users.acl`: every user can do its work, and nothing else.

use std::time::Duration;

use redis::{RedisResult, Value, cmd};
use storage_core::config::redis::RedisConfig;
use storage_core::domain::candle::Candle;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;
use storage_core::error_class::ErrorClass;
use storage_core::redis::codec::repairs::Base;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions::{self, Expiry};
use storage_core::redis::group_reader::{GroupReader, GroupReaderOptions};
use storage_core::redis::lease::{self, Membership};
use storage_core::redis::lost::{self, Losses};
use storage_core::redis::position::{positions, resume};
use storage_core::redis::preflight::{self, Findings};
use storage_core::redis::stream::{self, AGGREGATOR_ADMIN, HOT_WRITER, Stream, StreamReader, WARM_SYNCER};
use storage_core::redis::symbols::{self, VolumeDecimals};
use storage_core::redis::{groups, hot, inspect, keys, partitions, trim};
use storage_core::telemetry::readiness::Readiness;
use storage_core::testing::redis::TestRedis;

const USERS: &str = include_str!("../../../../redis/users.acl");
const FIRST_SECOND: Duration = Duration::from_secs(1);

/// A server with these users, each with its own name as password, made ready by aggregator-admin.
struct Server(TestRedis);

impl Server {
    async fn start() -> Self {
        let server = Self(TestRedis::start_with(&[]).await);
        let mut root = server.0.connect();
        for line in USERS.lines().filter(|line| !line.starts_with("user default")) {
            let words: Vec<&str> = line.split(' ').collect();
            cmd("ACL")
                .arg("SETUSER")
                .arg(&words[1..])
                .arg(format!(">{}", words[1]))
                .exec_async(&mut root)
                .await
                .unwrap();
        }
        let mut admin = server.user("aggregator-admin");
        functions::load(&mut admin).await.unwrap();
        partitions::store_once(&mut admin, 2).await.unwrap();
        for stream in Stream::all(2) {
            for group in stream.groups() {
                stream::create_group(&mut admin, stream, group).await.unwrap();
            }
        }
        server
    }

    fn config(&self, name: &str) -> RedisConfig {
        RedisConfig::at(&self.0.url().replace("redis://", &format!("redis://{name}:{name}@"))).unwrap()
    }

    fn user(&self, name: &str) -> Connection {
        Connection::ordinary(&self.config(name))
    }

    async fn assert_refused(&self, name: &str, commands: &[&str]) {
        for command in commands {
            let error = self.run(name, command).await.unwrap_err();
            assert_eq!(error.code(), Some("NOPERM"), "{name}: {command}: {error}");
            assert_eq!(ErrorClass::of(&error.into()), ErrorClass::Misconfigured);
        }
    }

    async fn run(&self, name: &str, command: &str) -> RedisResult<Value> {
        let words: Vec<&str> = command.split(' ').collect();
        cmd(words[0]).arg(&words[1..]).query_async(&mut self.user(name)).await
    }

    /// Adds a tick as its producer and returns its ID.
    async fn tick(&self) -> StreamId {
        let fields = vec![("symbol", "BTCUSDT".to_owned())];
        let id: String = stream::add(Stream::Ticks(0), &fields)
            .query_async(&mut self.user("feed-handler"))
            .await
            .unwrap();
        id.parse().unwrap()
    }

    /// Adds an entry and hands it to a consumer of warm-syncer's group, which does nothing with it.
    async fn hand_out(&self, stream: Stream) {
        let mut root = self.0.connect();
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

    /// Has entries trimmed that `group` has not read, and `name` find them.
    async fn lose(&self, name: &str, group: &'static str, stream: Stream) {
        let mut root = self.0.connect();
        stream::add(stream, &some_fields()).exec_async(&mut root).await.unwrap();
        let mut trim = cmd("XTRIM");
        trim.arg(stream.key())
            .arg("MAXLEN")
            .arg(0)
            .exec_async(&mut root)
            .await
            .unwrap();
        if stream.groups() == [AGGREGATOR_ADMIN] || (stream, group) == (Stream::Signals, HOT_WRITER) {
            self.read(name, group, stream).await;
        } else {
            let from = resume(&mut self.user(name), stream, group).await.unwrap();
            let losses = Losses::new(&crate::LOST, &Readiness::default());
            let config = self.config(name);
            let reader = StreamReader::new(&config, stream, from, FIRST_SECOND).watching(&config, group, losses);
            { reader }.next(10, Duration::from_millis(50)).await.unwrap();
        }
        let records = lost::records(&mut self.user("aggregator-admin")).await.unwrap();
        let found = records
            .iter()
            .any(|record| record.stream == stream.to_string() && record.group == group);
        assert!(found, "{name}: {stream}: {records:?}");
    }

    /// Looks at the settings of Redis.
    async fn inspect(&self, name: &str) {
        assert_eq!(
            preflight::inspect(&self.config(name)).await.unwrap(),
            Findings::default(),
            "{name}"
        );
    }

    async fn read(&self, name: &str, group: &'static str, stream: Stream) {
        let options = GroupReaderOptions {
            group,
            consumer: "test".to_owned(),
            batch: 10,
            block: Duration::from_millis(50),
            claim_after: Duration::ZERO,
            losses: Losses::new(&crate::LOST, &Readiness::default()),
        };
        let mut reader = GroupReader::new(&self.config(name), stream, options);
        reader.read().await.unwrap();
        reader.acknowledge(&[StreamId::START]).await.unwrap();
    }
}

fn symbol() -> Symbol {
    "BTCUSDT".parse().unwrap()
}

fn some_fields() -> stream::Fields {
    vec![("symbol", "BTCUSDT".to_owned())]
}

#[tokio::test]
async fn without_a_password_nobody_gets_in() {
    let mut kept = Vec::new();
    for line in USERS.lines() {
        let (user, rules) = line.strip_prefix("user ").unwrap().split_once(' ').unwrap();
        assert!(
            !rules.contains("nopass") && !rules.contains('>') && !rules.contains('#'),
            "{user}"
        );
        assert_eq!(rules.starts_with("off "), user == "default", "{user}");
        kept.push(user);
    }
    assert_eq!(
        kept,
        [
            "default",
            "hot-writer",
            "warm-syncer",
            "aggregator-admin",
            "backup-runner",
            "feed-handler",
            "strategy",
            "reader",
            "operator"
        ]
    );
}

#[tokio::test]
async fn hot_writer_keeps_the_hot_view_and_trims() {
    let server = Server::start().await;
    let id = server.tick().await;
    let conn = &mut server.user("hot-writer");
    functions::check(conn).await.unwrap();
    partitions::stored(conn).await.unwrap();
    VolumeDecimals::load(conn).await.unwrap();
    trim::now_ms(conn).await.unwrap();

    let membership = Membership::new(HOT_WRITER, "test".to_owned(), FIRST_SECOND);
    assert_eq!(membership.share(conn, 2).await.unwrap(), [0, 1]);
    assert!(membership.hold(conn, 0).await.unwrap());
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
    let base = keys::candle_restored(Timeframe::M1, &symbol(), 0);
    assert_eq!(hot::bases(conn, &[base]).await.unwrap(), [None]);
    let (term, _) = hot::Term::begin(conn, 0).await.unwrap();
    term.opened([&symbol()]).exec_async(conn).await.unwrap();
    term.closed([&symbol()]).exec_async(conn).await.unwrap();
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
        trim::trim(conn, stream, Duration::ZERO).await.unwrap();
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
async fn warm_syncer_moves_its_positions_and_asks_for_repairs() {
    let server = Server::start().await;
    server.tick().await;
    let conn = &mut server.user("warm-syncer");
    functions::check(conn).await.unwrap();
    partitions::stored(conn).await.unwrap();
    let membership = Membership::new(WARM_SYNCER, "test".to_owned(), FIRST_SECOND);
    membership.share(conn, 2).await.unwrap();
    assert!(membership.hold(conn, 0).await.unwrap());
    membership.release(conn, 0).await.unwrap();
    membership.leave(conn).await.unwrap();
    for stream in [Stream::Ticks(0), Stream::Candles(0), Stream::Signals, Stream::Dead] {
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
        server.hand_out(stream).await;
        assert_eq!(resume(conn, stream, WARM_SYNCER).await.unwrap(), StreamId::START);
    }
    for stream in [Stream::Repairs, Stream::Rollups, Stream::Dead, Stream::Ticks(0)] {
        functions::announce_all(conn, stream, &[some_fields()]).await.unwrap();
    }
    let announced = server
        .run("warm-syncer", "FCALL storage_announce 1 stream:candles:0 a b")
        .await;
    let error = announced.unwrap_err().to_string();
    assert!(error.contains("can't access at least one of the keys"), "{error}");

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
async fn aggregator_admin_keeps_the_streams_and_reads_the_hot_view() {
    let server = Server::start().await;
    let id = server.tick().await;
    let conn = &mut server.user("aggregator-admin");
    functions::check(conn).await.unwrap();
    partitions::check(partitions::stored(conn).await.unwrap(), 2).unwrap();
    partitions::unfinished(conn, 2).await.unwrap();
    partitions::replace(conn, 2, 1).await.unwrap();
    symbols::store(conn, &symbol(), 2).await.unwrap();
    symbols::store(conn, &symbol(), 8).await.unwrap();
    VolumeDecimals::load(conn).await.unwrap();
    lease::holders(conn, HOT_WRITER, 2).await.unwrap();
    lease::members(conn, HOT_WRITER).await.unwrap();
    let leader = Membership::new(AGGREGATOR_ADMIN, "test".to_owned(), FIRST_SECOND);
    leader.share(conn, 1).await.unwrap();
    assert!(leader.hold(conn, 0).await.unwrap());
    leader.release(conn, 0).await.unwrap();
    hot::candles(conn, &[keys::candle_current(Timeframe::M1, &symbol())])
        .await
        .unwrap();
    hot::hash(conn, &keys::tick_latest(&symbol())).await.unwrap();
    hot::nothing_lost(0).exec_async(conn).await.unwrap();
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
    stream::add_again(conn, Stream::Ticks(0), &[("symbol".to_owned(), "BTCUSDT".to_owned())])
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
                "HSET candle:current:1m:BTCUSDT close 1",
                "DEL tick:latest:BTCUSDT",
                "SET lease:hot-writer:0 me",
                "PUBLISH tick:BTCUSDT x",
            ],
        )
        .await;
}

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
async fn a_reader_only_looks_and_listens() {
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

#[tokio::test]
async fn every_worker_finds_its_lost_entries_and_looks_at_the_settings() {
    let server = Server::start().await;
    for (name, group, streams) in [
        (HOT_WRITER, HOT_WRITER, vec![Stream::Ticks(0), Stream::Signals]),
        (
            WARM_SYNCER,
            WARM_SYNCER,
            vec![Stream::Ticks(0), Stream::Candles(0), Stream::Signals, Stream::Dead],
        ),
        (
            AGGREGATOR_ADMIN,
            AGGREGATOR_ADMIN,
            vec![Stream::Repairs, Stream::Rollups, Stream::Backups],
        ),
    ] {
        for stream in streams {
            server.lose(name, group, stream).await;
        }
        server.inspect(name).await;
    }
    server.inspect("backup-runner").await;
}
