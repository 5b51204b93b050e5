//! SIGKILL, SIGTERM, and a database that refuses rows or is down.

use storage_core::postgres::edition::Edition;
use storage_core::redis::groups;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{Stream, length};
use storage_core::testing::polling::{until, until_true};
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::program::Worker;

use crate::harness::Stores;
use crate::{MINUTE_US, OLD_US, candle, candles_of, signal, tick, ticks_of};

const STREAMS: [Stream; 4] = [
    Stream::Candles(0),
    Stream::Candles(1),
    Stream::Ticks(0),
    Stream::Ticks(1),
];

/// Adds 20,000 ticks and 2,000 candles of four symbols.
async fn feed(stores: &Stores) {
    for name in ["A", "B", "C", "D"] {
        let ticks: Vec<_> = (0..5_000).map(|n| tick(name, OLD_US + n, "2", n)).collect();
        let candles: Vec<_> = (0..500)
            .map(|minute| candle(name, OLD_US + minute * MINUTE_US, 5, 10, 2))
            .collect();
        stores.redis.add_all(ticks_of(name), &ticks).await;
        stores.redis.add_all(candles_of(name), &candles).await;
    }
}

async fn assert_all_arrived(stores: &Stores) {
    assert_eq!(stores.database.number("SELECT count(*) FROM ticks").await, 20_000);
    assert_eq!(
        stores
            .database
            .number("SELECT count(*) FROM candles_1m WHERE volume = 300000000")
            .await,
        2_000
    );
    assert_eq!(stores.database.number("SELECT count(*) FROM dead_letters").await, 0);
}

fn worker(stores: &Stores, instance: &str) -> Worker {
    let settings = ["warm.batch_rows=50", "warm.tick_batch_rows=200", "warm.lease_ttl=500ms"];
    let program = settings
        .iter()
        .fold(stores.program(), |program, setting| program.setting(setting));
    program.start(instance)
}

async fn rows_beyond(stores: &Stores, rows: i64) {
    until_true("rows are written", async || {
        stores.database.number("SELECT count(*) FROM ticks").await > rows
    })
    .await;
}

#[tokio::test]
async fn killed_again_and_again_nothing_is_lost_or_doubled() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    feed(&stores).await;
    for round in 0..4 {
        let worker = worker(&stores, "one");
        rows_beyond(&stores, round * 2_000).await;
        worker.kill().await;
    }
    // Another replica claims the entries that the killed one has not acknowledged.
    let other = worker(&stores, "other");
    stores.drained(&STREAMS).await;
    assert_all_arrived(&stores).await;
    other.stop().await;
}

#[tokio::test]
async fn on_sigterm_it_finishes_its_batch() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    feed(&stores).await;
    let first = worker(&stores, "one");
    rows_beyond(&stores, 0).await;
    first.stop().await;
    // The position is behind everything that is written.
    let (mut connection, mut finished) = (stores.redis.connect(), 0);
    for stream in [Stream::Ticks(0), Stream::Ticks(1)] {
        let position = position_of(&mut connection, stream, "warm-syncer").await.unwrap();
        let lag = position.unwrap().lag.unwrap();
        finished += length(&mut connection, stream).await.unwrap() - lag;
    }
    assert_eq!(
        stores.database.number("SELECT count(*) FROM ticks").await,
        i64::try_from(finished).unwrap()
    );
    assert!(finished < 20_000, "it had no more to do");
    let second = worker(&stores, "two");
    stores.drained(&STREAMS).await;
    assert_all_arrived(&stores).await;
    second.stop().await;
}

#[tokio::test]
async fn a_batch_beyond_the_statement_timeout_is_halved() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    stores
        .database
        .execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_sleep(0.02); RETURN NEW; END $$;
             CREATE TRIGGER slow BEFORE INSERT ON ticks FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .await;
    let ticks: Vec<_> = (0..100).map(|n| tick("A", OLD_US + n * 1_000, "2", n)).collect();
    stores.redis.add_all(ticks_of("A"), &ticks).await;
    let worker = stores.program().setting("postgres.statement_timeout=1s").start("one");
    stores.drained(&[ticks_of("A")]).await;
    assert_eq!(stores.database.number("SELECT count(*) FROM ticks").await, 100);
    worker.stop().await;
}

#[tokio::test]
async fn a_read_only_database_is_written_again_when_it_is_no_longer_read_only() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let alter = async |change: &str| {
        let sql = format!(
            "SET TRANSACTION READ WRITE;
             DO $$ BEGIN EXECUTE format('ALTER DATABASE %I {change}', current_database()); END $$"
        );
        stores.database.execute(&sql).await;
    };
    alter("SET default_transaction_read_only = on").await;
    let worker = stores.worker("one");
    stores.redis.add(ticks_of("A"), &tick("A", OLD_US, "2", 1)).await;
    until_true("writing is refused", async || {
        worker.metric("warm_syncer_retries_total{store=\"postgres\"}").await > 0.0
    })
    .await;
    until_true("the failing batch is measured", async || {
        let stream = ticks_of("A");
        worker
            .metric(&format!("warm_syncer_failing_batch_seconds{{stream=\"{stream}\"}}"))
            .await
            > 0.0
    })
    .await;
    alter("RESET default_transaction_read_only").await;
    stores.drained(&[ticks_of("A")]).await;
    assert_eq!(stores.database.number("SELECT count(*) FROM ticks").await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_row_that_the_database_refuses_becomes_a_dead_letter_and_the_others_are_written() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    stores
        .database
        .execute("ALTER TABLE signals ADD CONSTRAINT weak CHECK (strength < 100)")
        .await;
    let signals: Vec<_> = (0..100)
        .map(|n| signal(&format!("s{n}"), if n % 40 == 7 { 500.0 } else { 1.0 }))
        .collect();
    stores.redis.add_all(Stream::Signals, &signals).await;
    let worker = stores.worker("one");
    stores.drained(&[Stream::Signals]).await;
    stores.drained(&[Stream::Dead]).await;
    assert_eq!(stores.database.number("SELECT count(*) FROM signals").await, 97);
    let refused = stores
        .database
        .texts(
            "SELECT fields->>'signal_id' || ' ' || reason AS text FROM dead_letters
             ORDER BY length(entry_id), entry_id",
        )
        .await;
    assert_eq!(refused.len(), 3);
    assert!(
        refused[0].starts_with("s7 ") && refused[0].contains("weak"),
        "{refused:?}"
    );
    assert_eq!(
        worker
            .metric("warm_syncer_dead_letters_total{kind=\"signals\",reason=\"refused\"}")
            .await,
        3.0
    );
}

#[tokio::test]
async fn a_dead_letter_that_the_database_refuses_is_not_sent_again() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    stores
        .database
        .execute("ALTER TABLE dead_letters ADD CONSTRAINT none CHECK (false)")
        .await;
    stores
        .redis
        .add_all(Stream::Dead, &[vec![("stream", "x".to_owned())]])
        .await;
    let worker = stores.worker("one");
    stores.drained(&[Stream::Dead]).await;
    assert_eq!(stores.redis.entries(Stream::Dead).await.len(), 1);
    assert_eq!(worker.metric("warm_syncer_dead_letters_lost_total").await, 1.0);
}

#[tokio::test]
async fn a_table_that_is_missing_for_a_while_is_waited_for() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let worker = stores.worker("one");
    worker.ready().await;
    stores.database.execute("ALTER TABLE ticks RENAME TO gone").await;
    stores.redis.add_all(ticks_of("A"), &[tick("A", OLD_US, "1", 1)]).await;
    let problem = until("the worker says what is wrong", async || {
        match worker.get("/readyz").await {
            (_, body) if body.contains("aggregator-admin migrate") => Ok(body),
            (_, body) => Err(body),
        }
    })
    .await;
    assert!(problem.contains(&ticks_of("A").to_string()), "{problem}");
    assert!(worker.metric("warm_syncer_retries_total{store=\"postgres\"}").await >= 1.0);
    stores.database.execute("ALTER TABLE gone RENAME TO ticks").await;
    stores.drained(&[ticks_of("A")]).await;
    assert_eq!(stores.database.number("SELECT count(*) FROM ticks").await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn it_stops_within_its_grace_period_although_the_database_refuses() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    stores.database.execute("ALTER TABLE ticks RENAME TO gone").await;
    stores.redis.add_all(ticks_of("A"), &[tick("A", OLD_US, "1", 1)]).await;
    let worker = stores.program().setting("service.shutdown_grace=1s").start("one");
    until_true("it tries again", async || {
        worker.get("/readyz").await.1.contains("ticks:")
    })
    .await;
    worker.stop().await;

    stores.database.execute("ALTER TABLE gone RENAME TO ticks").await;
    let _again = stores.worker("one");
    stores.drained(&[ticks_of("A")]).await;
    assert_eq!(stores.database.number("SELECT count(*) FROM ticks").await, 1);
}

#[tokio::test]
async fn a_group_that_was_lost_is_read_again_from_the_oldest_entry() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let worker = stores.worker("one");
    stores.redis.add_all(ticks_of("A"), &[tick("A", OLD_US, "1", 1)]).await;
    stores.drained(&[ticks_of("A")]).await;
    let mut connection = stores.redis.connect();
    redis::cmd("XGROUP")
        .arg(("DESTROY", ticks_of("A").key(), "warm-syncer"))
        .query_async::<()>(&mut connection)
        .await
        .unwrap();
    stores.redis.add_all(ticks_of("A"), &[tick("A", OLD_US, "1", 2)]).await;
    stores.drained(&[ticks_of("A")]).await;
    assert_eq!(stores.database.number("SELECT count(*) FROM ticks").await, 2);
    worker.stop().await;
}

#[tokio::test]
async fn a_group_that_is_set_back_is_read_again_although_nothing_new_comes() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let worker = stores.worker("one");
    stores.redis.add_all(ticks_of("A"), &[tick("A", OLD_US, "1", 1)]).await;
    stores.drained(&[ticks_of("A")]).await;
    stores.database.execute("TRUNCATE ticks").await;
    redis::cmd("XGROUP")
        .arg(("SETID", ticks_of("A").key(), "warm-syncer", "0"))
        .query_async::<()>(&mut stores.redis.connect())
        .await
        .unwrap();
    stores.drained(&[ticks_of("A")]).await;
    assert_eq!(stores.database.number("SELECT count(*) FROM ticks").await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn entries_that_an_earlier_version_has_not_acknowledged_are_written() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let (stream, mut connection) = (ticks_of("A"), stores.redis.connect());
    stores.redis.add_all(stream, &[tick("A", OLD_US, "1", 1)]).await;
    groups::create(&mut connection, stream, "warm-syncer").await.unwrap();
    redis::cmd("XREADGROUP")
        .arg(("GROUP", "warm-syncer", "earlier", "STREAMS", stream.key(), ">"))
        .exec_async(&mut connection)
        .await
        .unwrap();
    let worker = stores.worker("one");
    stores.drained(&[stream]).await;
    assert_eq!(stores.database.number("SELECT count(*) FROM ticks").await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_database_that_was_restored_to_an_earlier_state_gets_the_later_entries_again() {
    let restore = "DELETE FROM ticks WHERE revision > (SELECT min(revision) FROM ticks);
        DELETE FROM candles_1m; DELETE FROM signals;
        UPDATE positions SET revision = (SELECT min(revision) FROM ticks) WHERE stream LIKE 'stream:ticks:%';
        DELETE FROM positions WHERE stream NOT LIKE 'stream:ticks:%'";
    for database in TestDatabase::start_each().await {
        let stores = Stores::with(database).await;
        feed(&stores).await;
        stores.redis.add(Stream::Signals, &signal("s1", 0.8)).await;
        let all = [&STREAMS[..], &[Stream::Signals]].concat();
        let worker = stores.worker("one");
        stores.drained(&all).await;
        assert_all_arrived(&stores).await;
        worker.stop().await;
        stores.database.execute(restore).await;
        let worker = stores.worker("one");
        until_true("all ticks and candles are written again", async || {
            stores.database.number("SELECT count(*) FROM ticks").await == 20_000
                && stores.database.number("SELECT count(*) FROM candles_1m").await == 2_000
                && stores.database.number("SELECT count(*) FROM signals").await == 1
        })
        .await;
        assert_all_arrived(&stores).await;
        assert!(worker.metric("warm_syncer_rewinds_total").await >= 5.0);

        // While it runs, the next entry shows it.
        stores.database.execute(restore).await;
        for name in ["A", "B", "C", "D"] {
            stores
                .redis
                .add(ticks_of(name), &tick(name, OLD_US + 5_000, "2", 5_000))
                .await;
        }
        until_true("all ticks are written again", async || {
            stores.database.number("SELECT count(*) FROM ticks").await == 20_004
        })
        .await;
        worker.stop().await;
    }
}
