//! Entries that other clients remove unread are found, and counted once.

use std::time::{Duration, Instant};

use redis::{Value, cmd, pipe};
use storage_core::domain::stream_id::StreamId;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::redis::group_reader::{GroupReader, GroupReaderOptions};
use storage_core::redis::groups::{self, resume};
use storage_core::redis::look::{self, Look, Looks};
use storage_core::redis::lost::{self, Losses};
use storage_core::redis::stream::{AGGREGATOR_ADMIN, HOT_WRITER, Stream, WARM_SYNCER};
use storage_core::redis::stream_reader::StreamReader;
use storage_core::redis::trim;
use storage_core::telemetry::readiness::Readiness;
use storage_core::testing::redis::TestRedis;

const TICKS: Stream = Stream::Ticks(0);
const BLOCK: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);

/// A stream with groups that have not read any entry.
struct Fixture {
    redis: TestRedis,
    conn: Connection,
}

impl Fixture {
    async fn start() -> Self {
        let redis = TestRedis::start().await;
        let mut conn = redis.connect();
        functions::load(&mut conn).await.unwrap();
        for group in TICKS.groups() {
            groups::create(&mut conn, TICKS, group).await.unwrap();
        }
        Self { redis, conn }
    }

    async fn add(&mut self, count: usize) -> Vec<StreamId> {
        let mut ids = Vec::new();
        for _ in 0..count {
            let id: String = self.run(&["XADD", "stream:ticks:0", "*", "a", "b"]).await;
            ids.push(id.parse().unwrap());
        }
        ids
    }

    async fn run<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        cmd(words[0])
            .arg(&words[1..])
            .query_async(&mut self.conn)
            .await
            .unwrap()
    }

    async fn trim_to(&mut self, length: usize) {
        let length = length.to_string();
        self.run::<()>(&["XTRIM", "stream:ticks:0", "MAXLEN", &length]).await;
    }

    /// Creates a reader like that of a new owner.
    async fn reader(&mut self, readiness: &Readiness) -> (StreamReader, StreamId) {
        let at = resume(&mut self.conn, TICKS, HOT_WRITER).await.unwrap();
        let config = self.redis.config();
        let losses = Losses::new(&crate::LOST, readiness);
        let reader = StreamReader::new(&config, TICKS, at, BLOCK);
        (reader.reporting_losses(&config, HOT_WRITER, losses), at)
    }

    /// Reads all entries as a new owner, moves the position, and returns the number of entries.
    async fn read_all(&mut self) -> usize {
        let (mut reader, mut at) = self.reader(&Readiness::default()).await;
        let mut count = 0;
        loop {
            let entries = reader.next(100, BLOCK).await.unwrap();
            let Some(last) = entries.last() else { return count };
            count += entries.len();
            at = self.advance(at, last.id, entries.len()).await;
        }
    }

    async fn advance(&mut self, from: StreamId, to: StreamId, count: usize) -> StreamId {
        let at = functions::advance(&mut self.conn, TICKS, HOT_WRITER, from, to, count)
            .await
            .unwrap();
        assert_eq!(at, to);
        at
    }

    async fn lost(&mut self) -> u64 {
        let records = lost::records(&mut self.conn).await.unwrap();
        records.iter().map(|record| record.entries).sum()
    }

    /// Reads until `expected` entries are lost.
    async fn until_lost(&mut self, reader: &mut StreamReader, expected: u64) {
        let deadline = Instant::now() + PATIENCE;
        while self.lost().await < expected {
            assert!(Instant::now() < deadline, "{} of {expected}", self.lost().await);
            reader.next(100, BLOCK).await.unwrap();
        }
        assert_eq!(self.lost().await, expected);
    }
}

#[tokio::test]
async fn entries_trimmed_before_the_worker_started_are_counted_once() {
    let mut fixture = Fixture::start().await;
    fixture.add(1_000).await;
    fixture.trim_to(101).await;
    let readiness = Readiness::default();
    let (mut reader, _) = fixture.reader(&readiness).await;
    // A second owner starts at the same position, and another one after it was killed.
    let (mut other, _) = fixture.reader(&Readiness::default()).await;
    reader.next(1, BLOCK).await.unwrap();
    other.next(1, BLOCK).await.unwrap();
    assert_eq!(fixture.lost().await, 899);
    let problems = readiness.problems().join("");
    assert!(
        problems.contains("899 entries were removed from stream:ticks:0 unread"),
        "{problems}"
    );
    assert_eq!(fixture.read_all().await, 101);
    assert_eq!(fixture.read_all().await, 0);
    let records = lost::records(&mut fixture.conn).await.unwrap();
    assert_eq!(
        (records[0].stream.as_str(), records[0].group.as_str()),
        ("ticks:0", HOT_WRITER)
    );
    assert_eq!((records.len(), records[0].entries), (1, 899));
}

#[tokio::test]
async fn all_unread_entries_can_be_lost() {
    let mut fixture = Fixture::start().await;
    fixture.add(7).await;
    assert_eq!(fixture.read_all().await, 7);
    fixture.add(3).await;
    fixture.trim_to(0).await;
    assert_eq!(fixture.read_all().await, 0);
    assert_eq!(fixture.lost().await, 3);
    fixture.add(2).await;
    assert_eq!(fixture.read_all().await, 2);
    assert_eq!(fixture.lost().await, 3);
}

#[tokio::test]
async fn a_deleted_entry_in_the_middle_is_counted() {
    let mut fixture = Fixture::start().await;
    let ids = fixture.add(9).await;
    for id in [ids[3], ids[4], ids[7]] {
        fixture.run::<u64>(&["XDEL", "stream:ticks:0", &id.to_string()]).await;
    }
    assert_eq!(fixture.read_all().await, 6);
    assert_eq!(fixture.lost().await, 3);
}

#[tokio::test]
async fn large_entries_are_counted_when_few_are_left() {
    let mut fixture = Fixture::start().await;
    let large = "x".repeat(200_000);
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.push(
            fixture
                .run::<String>(&["XADD", "stream:ticks:0", "*", "a", &large])
                .await,
        );
    }
    fixture.run::<u64>(&["XDEL", "stream:ticks:0", &ids[5]]).await;
    let mut found = Vec::new();
    for (after, ahead) in [(&ids[0], "1"), (&ids[55], "55")] {
        let call = [
            "FCALL",
            "storage_lost",
            "1",
            "stream:ticks:0",
            HOT_WRITER,
            "0-0",
            after,
            ahead,
        ];
        found.push(fixture.run::<(String, u64, String)>(&call).await.1);
    }
    assert_eq!(found, [0, 1]);
}

#[tokio::test]
async fn a_loss_between_two_checks_is_found() {
    let mut fixture = Fixture::start().await;
    let (mut reader, _) = fixture.reader(&Readiness::default()).await;
    assert!(reader.next(10, BLOCK).await.unwrap().is_empty());
    let mut burst = pipe();
    burst.atomic();
    for _ in 0..50 {
        let add = ["stream:ticks:0", "MAXLEN", "8", "*", "a", "b"];
        burst.add_command(cmd("XADD").arg(&add).clone()).ignore();
    }
    burst.exec_async(&mut fixture.conn).await.unwrap();
    assert_eq!(reader.next(100, BLOCK).await.unwrap().len(), 8);
    fixture.until_lost(&mut reader, 42).await;
}

#[tokio::test]
async fn entries_removed_after_they_were_read_are_not_lost() {
    let mut fixture = Fixture::start().await;
    fixture.add(20).await;
    let (mut reader, at) = fixture.reader(&Readiness::default()).await;
    let read = reader.next(15, BLOCK).await.unwrap();
    // The position moves past the last of them although it is removed.
    fixture.trim_to(3).await;
    fixture.until_lost(&mut reader, 2).await;
    fixture.advance(at, read.last().unwrap().id, 15).await;
    assert_eq!(fixture.read_all().await, 3);
    assert_eq!(fixture.lost().await, 2);
}

#[tokio::test]
async fn trimming_finished_entries_is_not_a_loss() {
    let mut fixture = Fixture::start().await;
    let last = *fixture.add(30).await.last().unwrap();
    assert_eq!(fixture.read_all().await, 30);
    let mut conn = fixture.redis.connect();
    functions::advance(&mut conn, TICKS, WARM_SYNCER, StreamId::START, last, 30)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    trim::trim(&mut conn, TICKS, Duration::ZERO, &mut trim::FutureEnds::default())
        .await
        .unwrap();
    // Trimming is approximate; another client trims the rest.
    fixture.trim_to(0).await;
    assert_eq!(fixture.read_all().await, 0);
    // The group is reset to the oldest entry, by an operator or because it was lost.
    fixture.add(4).await;
    fixture
        .run::<()>(&["XGROUP", "SETID", "stream:ticks:0", HOT_WRITER, "0"])
        .await;
    assert_eq!(fixture.read_all().await, 4);
    fixture
        .run::<u64>(&["XGROUP", "DESTROY", "stream:ticks:0", HOT_WRITER])
        .await;
    assert_eq!(fixture.read_all().await, 4);
    assert_eq!(fixture.lost().await, 0);
}

#[tokio::test]
async fn entries_trimmed_before_their_delivery_are_counted_once() {
    let mut fixture = Fixture::start().await;
    let conn = &mut fixture.redis.connect();
    groups::create(conn, Stream::Repairs, AGGREGATOR_ADMIN).await.unwrap();
    let readiness = Readiness::default();
    let options = || GroupReaderOptions {
        group: AGGREGATOR_ADMIN,
        consumer: "test".to_owned(),
        batch: 2,
        block: BLOCK,
        claim_after: PATIENCE,
        losses: Losses::new(&crate::LOST, &readiness),
    };
    for length in ["100", "100", "100", "1"] {
        fixture
            .run::<String>(&["XADD", "stream:repairs", "MAXLEN", length, "*", "a", "b"])
            .await;
    }
    for expected in [1, 0] {
        let mut reader = GroupReader::new(&fixture.redis.config(), Stream::Repairs, options());
        let mut read = 0;
        for _ in 0..3 {
            let entries = reader.read().await.unwrap();
            reader
                .acknowledge(&entries.iter().map(|entry| entry.id).collect::<Vec<_>>())
                .await
                .unwrap();
            read += entries.len();
        }
        assert_eq!((read, fixture.lost().await), (expected, 3));
    }
    assert!(readiness.problems().join("").contains("stream:repairs"));
}

#[tokio::test]
async fn entries_that_an_external_group_has_not_read_are_counted_once() {
    let mut fixture = Fixture::start().await;
    let ids = fixture.add(10).await;
    let third = ids[2].to_string();
    for (group, position) in [("reader", "0"), ("by-id", third.as_str())] {
        fixture
            .run::<()>(&["XGROUP", "CREATE", "stream:ticks:0", group, position])
            .await;
    }
    let read = "XREADGROUP GROUP reader test COUNT 4 STREAMS stream:ticks:0 >";
    fixture.run::<Value>(&read.split(' ').collect::<Vec<_>>()).await;
    let mut conn = fixture.redis.connect();
    let mut lost = async |group: &str, checked: StreamId| {
        let lost = lost::of_external_group(&mut conn, TICKS, group, checked).await.unwrap();
        lost.map(|lost| (lost.entries, lost.position, lost.first_left))
    };
    assert_eq!(lost("reader", StreamId::START).await, None);
    assert_eq!(lost("by-id", ids[2]).await, None, "counted from here on");
    fixture.trim_to(2).await;
    for group in ["reader", "by-id"] {
        let (position, entries) = if group == "reader" { (ids[3], 4) } else { (ids[2], 5) };
        assert_eq!(lost(group, position).await, Some((entries, position, Some(ids[8]))));
        assert_eq!(lost(group, position).await, None);
    }
    fixture.add(3).await;
    fixture.trim_to(0).await;
    assert_eq!(lost("reader", ids[3]).await, Some((5, ids[3], None)));
    assert_eq!(lost("reader", ids[3]).await, None);
    fixture
        .run::<u64>(&["XGROUP", "DESTROY", "stream:ticks:0", "reader"])
        .await;
    assert_eq!(lost("reader", ids[3]).await, None);
    fixture.run::<u64>(&["DEL", "stream:ticks:0"]).await;
    assert_eq!(lost("by-id", ids[2]).await, None);
}

#[tokio::test]
async fn a_look_tells_a_deleted_stream_from_a_trimmed_one() {
    let mut fixture = Fixture::start().await;
    let ids = fixture.add(10).await;
    fixture.read_all().await;
    fixture.add(2).await;
    let mut conn = fixture.redis.connect();
    let before = Look::at(&mut conn, TICKS, 1).await.unwrap().unwrap();
    let group = |name: &str| {
        let group = &before.groups[name];
        (group.position, group.unfinished)
    };
    assert_eq!(group(HOT_WRITER), (ids[9], Some(2)));
    assert_eq!(group(WARM_SYNCER), (StreamId::START, Some(12)));
    let looks = Looks::from([(TICKS.to_string(), before.clone())]);
    look::store(&mut conn, &looks).await.unwrap();
    assert_eq!(look::stored(&mut conn).await.unwrap(), looks);
    for length in [5, 0] {
        fixture.trim_to(length).await;
        let now = Look::at(&mut conn, TICKS, 2).await.unwrap();
        assert!(!before.was_deleted(now.as_ref()), "{now:?}");
    }
    fixture.run::<u64>(&["DEL", "stream:ticks:0"]).await;
    assert_eq!(Look::at(&mut conn, TICKS, 3).await.unwrap(), None);
    groups::create(&mut conn, TICKS, HOT_WRITER).await.unwrap();
    for _ in 0..2 {
        let now = Look::at(&mut conn, TICKS, 4).await.unwrap();
        assert!(before.was_deleted(now.as_ref()), "{now:?}");
        fixture.add(20).await;
    }
}
