//! Trades that arrive after retention has dropped their day.

use std::time::Duration;

use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::postgres::edition::Edition;
use storage_core::redis::codec::repairs::{Repair, entry_fields};
use storage_core::redis::lease::Membership;
use storage_core::redis::refresh_windows;
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use storage_core::testing::polling::until_true;
use storage_core::testing::postgres::TestDatabase;

use crate::harness::Stores;
use crate::symbol;

/// Thirty days up to yesterday, with three trades of 2 lots each.
const HISTORY: &str = "
    INSERT INTO symbols (symbol) VALUES ('XRPETH');
    INSERT INTO ticks (time, symbol, price, lots, trade_no, trade_key, revision)
    SELECT date_trunc('day', now(), 'UTC') - day * INTERVAL '1 day' + trade * INTERVAL '5 hours', 'XRPETH', 10 + trade,
           2, day * 10 + trade, '', 4000 - day * 100 + trade
    FROM generate_series(1, 30) day, generate_series(1, 3) trade ORDER BY 1;
    INSERT INTO candles_1m SELECT time, symbol, price, price, price, price, lots, 1, revision FROM ticks ORDER BY 1";

/// A trade 20 days late, as warm-syncer writes it.
const LATE: &str = "
    INSERT INTO ticks VALUES (date_trunc('day', now(), 'UTC') - INTERVAL '19 days 20 hours', 'XRPETH', 99, 1, NULL,
        4711, '', (extract(epoch FROM now()) * 1000)::bigint << 22)";

const DAYS: &str =
    "SELECT count(*) || ' days, volume ' || sum(volume) || ', ' || max(trades) || ' trades at most' FROM candles_1d";
const LATE_DAY: &str = "
    SELECT (open, high, low, close, volume, trades) FROM candles_1d
    WHERE time = date_trunc('day', now(), 'UTC') - INTERVAL '20 days'";

async fn check(stores: &Stores, kept: &[&str]) {
    assert_eq!(
        stores.database.text(DAYS).await,
        "30 days, volume 181, 4 trades at most"
    );
    assert_eq!(stores.database.text(LATE_DAY).await, "(99,99,11,13,7,4)");
    for table in kept {
        assert_eq!(
            stores
                .database
                .number(&format!("SELECT sum(volume) FROM {table}"))
                .await,
            181,
            "{table}"
        );
    }
}

#[tokio::test]
async fn a_trade_later_than_retention_is_counted_and_no_command_removes_older_days() {
    let settings = ["admin.retain_candles_1m=8days", "admin.retain_ticks=8days"];
    a_late_trade_is_counted(&settings, &["candles_5m", "candles_15m", "candles_1h", "candles_4h"]).await;
}

#[tokio::test]
async fn larger_candles_stay_when_retention_drops_the_smaller_ones() {
    let settings = [
        "admin.retain_candles_1m=8days",
        "admin.retain_ticks=8days",
        "admin.retain_candles_5m=9days",
        "admin.retain_candles_15m=9days",
    ];
    a_late_trade_is_counted(&settings, &["candles_1h", "candles_4h"]).await;
}

/// Tests that a trade 20 days late is counted once in `kept` and the candles of a day, after chunks were dropped.
async fn a_late_trade_is_counted(settings: &[&str], kept: &[&str]) {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(HISTORY).await;
        assert_eq!(stores.admin(&["refresh", "--all"]).code, Some(0));
        if stores.database.edition() == Edition::Community {
            let set = settings.iter().flat_map(|setting| ["--set", setting]);
            let applied = stores.admin(&["apply"].into_iter().chain(set).collect::<Vec<_>>());
            assert_eq!(applied.code, Some(0), "{}", applied.stderr);
        }
        let worker = stores.worker_with(&[settings, &["admin.policy_interval=1s"]].concat());
        let smaller = ["candles_5m", "candles_15m"]
            .into_iter()
            .filter(|table| !kept.contains(table));
        for table in ["ticks", "candles_1m"].into_iter().chain(smaller) {
            until_true("old chunks are dropped", async || {
                stores.database.number(&format!("SELECT count(*) FROM {table}")).await < 90
            })
            .await;
        }

        stores.database.execute(LATE).await;
        let start_us = stores
            .database
            .number("SELECT extract(epoch FROM time) * 1000000 FROM ticks WHERE trade_no = 4711")
            .await;
        let late = Repair {
            symbol: symbol(),
            start_us,
            revision: Revision::try_from(StreamId::START).unwrap(),
        };
        stores.redis.add(Stream::Repairs, &entry_fields(&late)).await;
        stores.drained(Stream::Repairs).await;
        stores.drained(Stream::Rollups).await;
        check(&stores, kept).await;

        let verified = stores.admin(&["verify"]);
        assert_eq!(verified.code, Some(0), "{}{}", verified.stdout, verified.stderr);
        for command in [
            vec!["refresh", "--all"],
            vec!["refresh", "--from", "2019-01-01", "--to", "2100-01-01"],
        ] {
            assert_eq!(stores.admin(&command).code, Some(0));
            check(&stores, kept).await;
        }
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_warm_syncer_that_announces_later_changes_only_is_named() {
    let Some(database) = TestDatabase::start_each().await.pop() else {
        return;
    };
    let stores = Stores::ready(database).await;
    let redis = &mut stores.redis.connect();
    let day = Duration::from_secs(86_400);
    refresh_windows::announce(redis, "warm-1", 4 * day).await.unwrap();
    assert_eq!(stores.admin(&["plan"]).code, Some(0), "no such replica is alive");
    let warm_syncer = Membership::new(WARM_SYNCER, "warm-1".to_owned(), day);
    warm_syncer.share(redis, 1).await.unwrap();
    for command in ["plan", "apply"] {
        let refused = stores.admin(&[command]);
        assert_eq!(refused.code, Some(64));
        let reason = "admin.refresh_window is 4days but must be at least 5days";
        assert!(refused.stderr.contains(reason), "{}", refused.stderr);
        let window = ["--set", "admin.refresh_window=6days"];
        assert_eq!(stores.admin(&[&[command], &window[..]].concat()).code, Some(0));
        let rare = ["--set", "admin.refresh_every=25h"];
        let refused = stores.admin(&[&[command], &window[..], &rare[..]].concat());
        assert_eq!(refused.code, Some(64));
        let reason = "warm.refresh_window, which is 4days at warm-1, and a day and";
        assert!(refused.stderr.contains(reason), "{}", refused.stderr);
    }
}
