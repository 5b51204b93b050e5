//! Losses that no reader of the pipeline notices: of external groups, and of streams that are deleted whole.

use redis::{FromRedisValue, cmd};
use storage_core::postgres::edition::Edition;
use storage_core::redis::look::{self, Look};
use storage_core::redis::stream::Stream;
use storage_core::testing::polling::until;
use storage_core::testing::postgres::TestDatabase;

use crate::harness::Stores;
use crate::ticks;

impl Stores {
    async fn run<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut self.redis.connect()).await.unwrap()
    }

    async fn add_entries(&self, stream: Stream, count: usize) {
        self.redis
            .add_all(stream, &vec![vec![("a", "b".to_owned())]; count])
            .await;
    }

    /// Waits until aggregator-admin has seen `stream` as `is_as_expected` wants it.
    async fn looked(&self, stream: Stream, is_as_expected: impl Fn(&Look) -> bool) {
        let mut connection = self.redis.connect();
        until("a look", async || {
            let looks = look::stored(&mut connection).await.map_err(|error| error.to_string())?;
            match looks.get(&stream.to_string()) {
                Some(look) if is_as_expected(look) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    async fn status_contains(&self, text: &str) {
        until(text, async || match self.admin(&["status"]) {
            status if status.stdout.contains(text) => Ok(()),
            status => Err(status.stdout),
        })
        .await;
    }
}

#[tokio::test]
async fn entries_that_are_trimmed_before_an_external_group_has_read_them_are_counted() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::ready(database).await;
    let (stream, key) = (ticks(), ticks().key().to_string());
    stores.run::<()>(&["XGROUP", "CREATE", &key, "research", "0"]).await;
    stores.add_entries(stream, 10).await;
    let read = [
        "XREADGROUP",
        "GROUP",
        "research",
        "one",
        "COUNT",
        "4",
        "STREAMS",
        &key,
        ">",
    ];
    stores.run::<redis::Value>(&read).await;
    let worker = stores.worker();
    stores
        .looked(stream, |look| look.groups["research"].unfinished == Some(10))
        .await;
    stores.run::<u64>(&["XTRIM", &key, "MAXLEN", "2"]).await;
    worker.logged("before an external group had read them").await;
    let lost = format!("4 of {stream} not read by research, last at");
    stores.status_contains(&lost).await;
    let metric = format!("aggregator_admin_group_lost_entries_total{{stream=\"{stream}\",group=\"research\"}}");
    assert_eq!(worker.metric(&metric).await, 4.0);
    // Another replica does not count them again, and counts what follows.
    worker.stop().await;
    let worker = stores.worker();
    stores.add_entries(stream, 5).await;
    stores.looked(stream, |look| look.added == 15).await;
    assert!(stores.admin(&["status"]).stdout.contains(&lost));
    stores.run::<u64>(&["XTRIM", &key, "MAXLEN", "0"]).await;
    stores
        .status_contains(&format!("11 of {stream} not read by research, last at"))
        .await;
    worker.stop().await;
}

#[tokio::test]
async fn unfinished_entries_of_a_deleted_stream_are_counted_for_each_group() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::ready(database).await;
    let stream = Stream::Signals;
    stores.add_entries(stream, 5).await;
    stores
        .run::<()>(&["XGROUP", "SETID", "stream:signals", "hot-writer", "$"])
        .await;
    let worker = stores.worker();
    stores.looked(stream, |look| look.added == 5).await;
    stores.run::<u64>(&["DEL", "stream:signals"]).await;
    worker.logged("the stream was deleted or evicted whole").await;
    stores
        .status_contains("5 of signals not read by warm-syncer, last at")
        .await;
    assert!(!stores.admin(&["status"]).stdout.contains("not read by hot-writer"));
    let (_, problems) = worker.get("/readyz").await;
    assert!(
        problems.contains("5 entries were removed from stream:signals unread"),
        "{problems}"
    );
    // Deleted while no replica runs: the next one finds it by the last look.
    stores.looked(stream, |look| look.groups.len() == 2).await;
    stores.add_entries(stream, 3).await;
    stores.looked(stream, |look| look.added == 3).await;
    worker.stop().await;
    stores.run::<u64>(&["DEL", "stream:signals"]).await;
    stores.add_entries(stream, 20).await;
    let worker = stores.worker();
    stores
        .status_contains("8 of signals not read by warm-syncer, last at")
        .await;
    stores
        .status_contains("3 of signals not read by hot-writer, last at")
        .await;
    worker.stop().await;
}
