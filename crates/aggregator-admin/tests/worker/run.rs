//! `run`: repairs, rollups, backups, start and shutdown.

use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::time::TimeRange;
use storage_core::redis::clock::now_ms;
use storage_core::redis::codec::backups::BackupAnnouncement;
use storage_core::redis::codec::repairs::Repair;
use storage_core::redis::codec::{backups, repairs, rollups};
use storage_core::redis::functions::advance;
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use storage_core::redis::write_load::{WriteLoad, exchange};
use storage_core::testing::postgres::TestDatabase;

use crate::harness::Stores;
use crate::{LATE_MINUTE, MINUTE_US, OLD_US, symbol, ticks};

const FIRST_CANDLE: &str =
    "SELECT (open, high, low, close, volume, trades) FROM candles_1m WHERE time = '2019-10-11 00:00Z'";

fn repair(start_us: i64, up_to: StreamId) -> Vec<(&'static str, String)> {
    let revision = Revision::try_from(up_to).unwrap();
    let symbol = symbol();
    repairs::entry_fields(&Repair {
        symbol,
        start_us,
        revision,
    })
}

#[tokio::test]
async fn a_minute_is_repaired_once_the_warm_syncers_have_finished_its_ticks() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(LATE_MINUTE).await;
        assert_eq!(stores.admin(&["refresh", "--all"]).code, Some(0));
        let late = stores.redis.add(ticks(), &vec![("symbol", symbol().to_string())]).await;
        let worker = stores.worker();
        stores.redis.add(Stream::Repairs, &repair(OLD_US, late)).await;
        // A minute without ticks is finished immediately; by then, the other one was examined.
        stores
            .redis
            .add(Stream::Repairs, &repair(OLD_US + 9 * MINUTE_US, StreamId::START))
            .await;
        worker.logged("has no ticks").await;
        assert_eq!(stores.database.text(FIRST_CANDLE).await, "(2,2,2,2,100000000,1)");

        let redis = &mut stores.redis.connect();
        let at = advance(redis, ticks(), WARM_SYNCER, StreamId::START, late, 1).await;
        assert_eq!(at.unwrap(), late);
        stores.drained(Stream::Repairs).await;
        stores.drained(Stream::Rollups).await;
        assert_eq!(stores.database.text(FIRST_CANDLE).await, "(1,3,1,3,300000000,3)");
        assert_eq!(stores.database.number("SELECT trades FROM candles_1d").await, 3);
        let verified = stores.admin(&["verify"]);
        assert_eq!(verified.code, Some(0), "{verified:?}");
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_candle_with_more_trades_than_there_are_ticks_stays() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(LATE_MINUTE).await;
        stores
            .database
            .execute("UPDATE candles_1m SET trades = 9, revision = 30")
            .await;
        let _worker = stores.worker();
        stores
            .redis
            .add(Stream::Repairs, &repair(OLD_US, StreamId::START))
            .await;
        stores.drained(Stream::Repairs).await;
        assert_eq!(stores.database.number("SELECT trades FROM candles_1m").await, 9);
        let dead = stores.redis.entries(Stream::Dead).await.join("\n");
        assert!(dead.contains("has 9 trades, more than the 3 ticks"), "{dead}");
    }
}

#[tokio::test]
async fn a_repair_waits_for_the_ticks_of_a_candle_that_was_written_before_them() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(LATE_MINUTE).await;
        let last = stores.redis.add(ticks(), &vec![("symbol", symbol().to_string())]).await;
        let revision = Revision::try_from(last).unwrap();
        let ahead = format!("UPDATE candles_1m SET trades = 4, revision = {revision}");
        stores.database.execute(&ahead).await;
        let worker = stores.worker();
        for minute in [0, 9] {
            let requested = repair(OLD_US + minute * MINUTE_US, StreamId::START);
            stores.redis.add(Stream::Repairs, &requested).await;
        }
        worker.logged("has no ticks").await;
        let tick = format!(
            "INSERT INTO ticks (time, symbol, price, lots, trade_no, trade_key, revision)
             VALUES ('2019-10-11 00:00:30Z', 'XRPETH', 9.0, 100000000, 4, '', {revision})"
        );
        stores.database.execute(&tick).await;
        let redis = &mut stores.redis.connect();
        advance(redis, ticks(), WARM_SYNCER, StreamId::START, last, 1)
            .await
            .unwrap();
        stores.drained(Stream::Repairs).await;
        assert_eq!(stores.database.text(FIRST_CANDLE).await, "(1,9,1,3,400000000,4)");
        assert_eq!(stores.redis.entries(Stream::Dead).await, [] as [String; 0]);
    }
}

#[tokio::test]
async fn a_late_trade_joins_a_candle_whose_ticks_were_dropped_once_for_any_number_of_repairs() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(LATE_MINUTE).await;
        stores
            .database
            .execute(
                "DELETE FROM ticks WHERE revision < 30; UPDATE candles_1m SET volume = 700000000;
                 INSERT INTO complete_since VALUES ('ticks', '2019-10-12 00:00Z')",
            )
            .await;
        let _worker = stores.worker();
        for _ in 0..3 {
            stores
                .redis
                .add(Stream::Repairs, &repair(OLD_US, StreamId::START))
                .await;
            stores.drained(Stream::Repairs).await;
            stores.drained(Stream::Rollups).await;
            assert_eq!(stores.database.text(FIRST_CANDLE).await, "(2,3,2,3,800000000,2)");
        }
        assert_eq!(stores.database.number("SELECT trades FROM candles_1d").await, 2);
        assert_eq!(stores.redis.entries(Stream::Dead).await, Vec::<String>::new());
    }
}

#[tokio::test]
async fn announced_ranges_are_refreshed_and_an_invalid_one_is_a_dead_letter() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores
            .database
            .execute(
                "INSERT INTO candles_1m
                 SELECT '2019-10-11 00:00Z'::timestamptz + m * INTERVAL '1 minute', 'XRPETH', 1, 2, 0.5, 1.5, 100, 2, m
                 FROM generate_series(1, 600) m",
            )
            .await;
        let _worker = stores.worker();
        stores
            .redis
            .add(Stream::Rollups, &vec![("from", "yesterday".to_owned())])
            .await;
        let range = TimeRange {
            from_us: OLD_US,
            to_us: OLD_US + 700 * MINUTE_US,
        };
        stores.redis.add(Stream::Rollups, &rollups::entry_fields(range)).await;
        stores.drained(Stream::Rollups).await;
        assert_eq!(
            stores.database.number("SELECT sum(trades) FROM candles_5m").await,
            1_200
        );
        assert_eq!(
            stores.database.number("SELECT sum(volume) FROM candles_1d").await,
            60_000
        );
        let dead = stores.redis.entries(Stream::Dead).await.join("\n");
        assert!(
            dead.contains("stream=stream:rollups") && dead.contains("reason=field `from`"),
            "{dead}"
        );
    }
}

#[tokio::test]
async fn the_last_backup_of_each_kind_is_kept_for_status() {
    let Some(database) = TestDatabase::start_each().await.pop() else {
        return;
    };
    let stores = Stores::ready(database).await;
    let _worker = stores.worker();
    for name in ["redis-1", "redis-2"] {
        let backup = BackupAnnouncement {
            name: name.into(),
            kind: "redis".into(),
            started_us: OLD_US,
            took_ms: 1_500,
            size_bytes: 36_600_000,
        };
        stores.redis.add(Stream::Backups, &backups::entry_fields(&backup)).await;
    }
    stores.drained(Stream::Backups).await;
    let status = stores.admin(&["status"]);
    assert!(status.stdout.contains("redis redis-2"), "{}", status.stdout);
    assert!(
        status.stdout.contains("36.6 MB in 1.5 s") && !status.stdout.contains("redis-1"),
        "{}",
        status.stdout
    );
}

#[tokio::test]
async fn status_reports_the_age_of_open_candles_of_the_replicas_that_have_just_written_some() {
    let Some(database) = TestDatabase::start_each().await.pop() else {
        return;
    };
    let stores = Stores::ready(database).await;
    let status = stores.admin(&["status"]);
    assert!(status.stdout.contains("open candles   idle"), "{}", status.stdout);

    let mut redis = stores.redis.connect();
    let load = WriteLoad {
        at_ms: now_ms(&mut redis).await.unwrap(),
        waiting: 2_500,
        share: 0.0421,
        max_age_ms: 1_234,
    };
    exchange(&mut redis, "hot-1", load).await.unwrap();
    let status = stores.admin(&["status"]);
    let line = "open candles   hot-1: 1m up to 1,234 ms old, 4.2 % of Redis, 2,500 waiting";
    assert!(status.stdout.contains(line), "{}", status.stdout);
    let status = stores.admin(&["status", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&status.stdout).unwrap();
    let expected = serde_json::json!([
        { "instance": "hot-1", "max_age_ms": 1_234, "write_share": 0.0421, "waiting": 2_500 }
    ]);
    assert_eq!(report["hot"]["open_candles"], expected);
}

#[tokio::test]
async fn a_mismatch_with_the_stores_is_an_error_with_the_command_to_run() {
    let Some(database) = TestDatabase::start_each().await.pop() else {
        return;
    };
    let stores = Stores::with(database).await;
    let new = stores.admin(&["run"]);
    assert_eq!(new.code, Some(64));
    assert!(new.stderr.contains("run `aggregator-admin migrate`"), "{}", new.stderr);
    assert_eq!(stores.admin(&["migrate"]).code, Some(0));
    let other = stores.admin(&["run", "--set", "stream.partitions=7"]);
    assert_eq!(other.code, Some(64));
    assert!(
        other.stderr.contains("partitions is 4 in Redis but 7"),
        "{}",
        other.stderr
    );
    let unknown = stores.admin(&["run", "--set", "admin.refresh=1h"]);
    assert_eq!(unknown.code, Some(64));
}
