//! Lots that adapt to the quantities of their symbol.

use storage_core::domain::prices::Prices;
use storage_core::redis::symbols::{self, SymbolProperties};
use storage_core::testing::polling::until_true;
use storage_core::testing::postgres::TestDatabase;

use crate::harness::Stores;
use crate::{LATE_MINUTE, symbol, ticks};

/// Adds a dead letter of a tick of XRPETH with quantity `qty`, a minute after [`LATE_MINUTE`].
async fn reject(stores: &Stores, id: &str, qty: &str, reason: &str) {
    let sql = format!(
        "INSERT INTO dead_letters (stream, entry_id, reason, fields, truncated) VALUES
             ('stream:ticks:9', '{id}', '{reason}',
         '{{\"symbol\": \"XRPETH\", \"ts_us\": \"1570752060000000\", \"price\": \"1\", \"qty\": \"{qty}\"}}', false)"
    );
    stores.database.execute(&sql).await;
}

const TOO_FINE: &str = "qty is too fine for lots of 10^-8; run a command";
const TOO_LARGE: &str = "the volume exceeds a bigint in lots of 10^-8; run a command";

async fn decimals(stores: &Stores) -> (i64, u8) {
    let stored = stores.database.number("SELECT volume_decimals FROM symbols").await;
    let in_redis = SymbolProperties::load(&mut stores.redis.connect()).await.unwrap();
    (stored, in_redis.decimals(&symbol()))
}

#[tokio::test]
async fn quantities_that_do_not_fit_change_the_lots_and_are_requeued() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(LATE_MINUTE).await;
        stores.admin(&["repair", "XRPETH", "--from", "2019-10-11", "--to", "2019-10-12"]);
        symbols::store(&mut stores.redis.connect(), &symbol(), 8, Prices::Any)
            .await
            .unwrap();
        let day = "SELECT volume FROM candles_1d";
        assert_eq!(stores.database.number(day).await, 300_000_000);
        reject(&stores, "5-1", "0.000000001", TOO_FINE).await;
        reject(&stores, "5-2", "0.0000000002", TOO_FINE).await;
        reject(&stores, "5-3", "0.0000000000000000001", TOO_FINE).await;
        let worker = stores.worker();
        until_true("two dead letters are requeued", async || {
            stores.redis.entries(ticks()).await.len() == 2
        })
        .await;
        assert_eq!(decimals(&stores).await, (10, 10));
        let requeued = stores.redis.entries(ticks()).await.join("\n");
        assert!(
            requeued.contains("qty=0.000000001") && requeued.contains("storage_requeued=5-2"),
            "{requeued}"
        );
        until_true("the larger timeframes follow", async || {
            stores.database.number(day).await == 30_000_000_000
        })
        .await;
        assert_eq!(worker.metric("aggregator_admin_symbols_rescaled_total").await, 1.0);
        assert_eq!(worker.metric("aggregator_admin_dead_letters_requeued_total").await, 2.0);

        // The stored quantities are whole units, but these need a decimal.
        reject(&stores, "6-1", "1000000000000", TOO_LARGE).await;
        until_true("the third is requeued", async || {
            stores.redis.entries(ticks()).await.len() == 3
        })
        .await;
        assert_eq!(decimals(&stores).await, (3, 3));
        // These rows hold no coarser lots.
        stores
            .database
            .execute("UPDATE candles_1m SET volume = volume + 1")
            .await;
        reject(&stores, "7-1", "1000000000000000000", TOO_LARGE).await;
        worker.logged("can't be adapted").await;
        reject(&stores, "7-2", "5", TOO_LARGE).await;
        until_true("the one that fits is requeued", async || {
            stores.redis.entries(ticks()).await.len() == 4
        })
        .await;
        assert_eq!(decimals(&stores).await, (3, 3));
        let changes = stores.admin(&["symbols", "changes"]).stdout;
        assert!(
            changes.contains("qty 0.000000001 did not fit lots of 10^-8"),
            "{changes}"
        );
        let waiting = stores.admin(&["dead-letters", "list"]).stdout;
        assert!(waiting.contains("9/5-3") && waiting.contains("9/7-1"), "{waiting}");
        assert_eq!(waiting.matches("ticks:9").count(), 2, "{waiting}");
        worker.stop().await;
    }
}

#[tokio::test]
async fn lots_stay_as_they_are_if_the_setting_says_so() {
    let Some(database) = TestDatabase::start_each().await.into_iter().next() else {
        return;
    };
    let stores = Stores::ready(database).await;
    stores.database.execute(LATE_MINUTE).await;
    reject(&stores, "5-1", "0.000000001", TOO_FINE).await;
    let worker = stores.worker_with(&["admin.adapt_decimals=false"]);
    worker.ready().await;
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert_eq!(decimals(&stores).await, (8, 8));
    worker.stop().await;
}

#[tokio::test]
async fn a_dead_letter_is_mended_on_its_way_back_and_one_that_would_fail_again_stays() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        let letters = "
            INSERT INTO dead_letters (stream, entry_id, reason, fields, truncated) VALUES
                ('stream:ticks:0', '1-1', 'x', '{\"symbol\": \"XRP:ETH\", \"ts_us\": \"1570752060000000\",
                    \"price\": \"1\", \"qty\": \"2\", \"side\": \"BID\"}', false),
                ('stream:ticks:0', '1-2', 'x', '{\"symbol\": \"XRPETH\", \"ts_us\": \"1570752060000\",
                    \"price\": \"1\", \"qty\": \"2\", \"requeued\": \"1-1\"}', false),
                ('stream:ticks:0', '1-3', 'x', '{\"symbol\": \"XRPETH\", \"ts_us\": \"1570752060000000\",
                    \"price\": \"-1\", \"qty\": \"2\"}', false)";
        stores.database.execute(letters).await;
        let requeue = |more: &[&str]| stores.admin(&[&["dead-letters", "requeue"], more].concat());
        let all = requeue(&["--all"]);
        assert_eq!(all.code, Some(1));
        for reason in ["field `symbol`", "looks like milliseconds", "--prices any"] {
            assert!(
                all.stdout.contains(&format!("it would be rejected again: {reason}")) || all.stdout.contains(reason)
            );
        }
        assert_eq!(
            all.stdout.matches("would be rejected again").count(),
            3,
            "{}",
            all.stdout
        );
        let mend = [
            "1-1",
            "--map",
            "symbol=XRP:ETH:XRPETH",
            "--map",
            "side=BID:buy",
            "--set",
            "price=3",
        ];
        let shown = requeue(&[&mend[..], &["--dry-run"]].concat());
        assert!(
            shown.stdout.contains("would be requeued to ticks:"),
            "{}{}",
            shown.stdout,
            shown.stderr
        );
        assert!(stores.redis.entries(ticks()).await.is_empty());
        assert_eq!(requeue(&mend).code, Some(0));
        let mended = requeue(&["1-2", "--set", "ts_us=1570752060000000", "--drop", "requeued"]);
        assert_eq!(mended.code, Some(0), "{}", mended.stderr);
        assert_eq!(
            stores.admin(&["symbols", "set", "XRPETH", "--prices", "any"]).code,
            Some(0)
        );
        assert_eq!(requeue(&["1-3"]).code, Some(0));
        assert_eq!(
            stores.redis.entries(ticks()).await,
            [
                "qty=2 side=buy symbol=XRPETH ts_us=1570752060000000 storage_requeued=1-1 price=3",
                "price=1 qty=2 symbol=XRPETH storage_requeued=1-2 ts_us=1570752060000000",
                "price=-1 qty=2 symbol=XRPETH ts_us=1570752060000000 storage_requeued=1-3",
            ]
        );
        assert_eq!(requeue(&["1-1", "--set", "storage_requeued=1-1"]).code, Some(64));
    }
}
