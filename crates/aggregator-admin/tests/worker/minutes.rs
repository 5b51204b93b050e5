//! Minutes whose ticks retention has dropped, and minutes whose volume leaves bigint.

use storage_core::redis::stream::Stream;
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::program::Outcome;

use crate::harness::Stores;

const CANDLE: &str = "SELECT (open, high, low, close, volume, trades) FROM candles_1m WHERE time = '2019-10-11 00:00Z'";

/// Writes a minute of one trade, whose tick was dropped, and the trades `late` as `(second, price, lots, revision)`.
async fn late_trades(stores: &Stores, late: &str) {
    stores
        .database
        .execute(&format!(
            "INSERT INTO symbols (symbol) VALUES ('XRPETH') ON CONFLICT DO NOTHING;
             INSERT INTO candles_1m VALUES ('2019-10-11 00:00Z', 'XRPETH', 50, 50, 50, 50, 7, 1, 10)
                 ON CONFLICT DO NOTHING;
             INSERT INTO complete_since VALUES ('ticks', '2019-10-12 00:00Z') ON CONFLICT DO NOTHING;
             INSERT INTO ticks (time, symbol, price, lots, trade_no, trade_key, revision)
             SELECT '2019-10-11 00:00Z'::timestamptz + second * INTERVAL '1 second', 'XRPETH', price, lots, revision,
                 '', revision
             FROM (VALUES {late}) late (second, price, lots, revision)"
        ))
        .await;
}

fn repair(stores: &Stores) -> Outcome {
    let repaired = stores.admin(&["repair", "XRPETH", "--from", "2019-10-11", "--to", "2019-10-12"]);
    assert_eq!(repaired.code, Some(0), "{}{}", repaired.stdout, repaired.stderr);
    repaired
}

#[tokio::test]
async fn a_late_trade_joins_a_candle_whose_ticks_were_dropped() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        late_trades(&stores, "(30, 60, 1, 200)").await;
        assert_eq!(
            stores.admin(&["verify"]).code,
            Some(1),
            "the trade is not in the candle"
        );
        repair(&stores);
        assert_eq!(stores.database.text(CANDLE).await, "(50,60,50,60,8,2)");
        repair(&stores);
        assert_eq!(stores.database.text(CANDLE).await, "(50,60,50,60,8,2)", "once");
        let verified = stores.admin(&["verify"]);
        assert_eq!(verified.code, Some(0), "{}", verified.stdout);
        assert!(
            verified
                .stdout
                .contains("1m before 2019-10-12T00:00:00Z: retention has dropped rows")
        );

        // A trade with an earlier time arrives later: the other one has closed the minute already.
        late_trades(&stores, "(10, 40, 2, 300)").await;
        repair(&stores);
        assert_eq!(stores.database.text(CANDLE).await, "(50,60,40,60,10,3)");
        stores.database.execute("DELETE FROM ticks").await;
        late_trades(&stores, "(5, 45, 1, 400), (6, 46, 1, 401)").await;
        repair(&stores);
        assert_eq!(stores.database.text(CANDLE).await, "(50,60,40,46,12,5)");
        assert_eq!(stores.database.number("SELECT trades FROM candles_1d").await, 5);
        // The other minutes of the day have candles and no ticks, too.
        stores
            .database
            .execute("INSERT INTO candles_1m VALUES ('2019-10-11 00:01Z', 'XRPETH', 5, 5, 5, 5, 7, 1, 10)")
            .await;
        assert_eq!(stores.admin(&["refresh", "--all"]).code, Some(0));
        assert_eq!(stores.admin(&["verify"]).code, Some(0));
        let forced = stores.admin(&[
            "repair",
            "XRPETH",
            "--from",
            "2019-10-11",
            "--to",
            "2019-10-12",
            "--force",
        ]);
        assert_eq!(forced.code, Some(0), "{}", forced.stderr);
        assert_eq!(
            stores.database.text(CANDLE).await,
            "(50,60,40,46,12,5)",
            "what was dropped can't be forced"
        );
    }
}

#[tokio::test]
async fn a_late_trade_of_a_minute_without_ticks_and_candle_becomes_its_candle() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        late_trades(&stores, "(30, 60, 1, 200), (40, 70, 2, 201)").await;
        stores.database.execute("DELETE FROM candles_1m").await;
        repair(&stores);
        assert_eq!(stores.database.text(CANDLE).await, "(60,70,60,70,3,2)");
        assert_eq!(stores.admin(&["verify"]).code, Some(0));
    }
}

#[tokio::test]
async fn a_trade_that_does_not_fit_is_a_dead_letter_whose_command_works() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        // Two trades of 60,000,000,000 units and a small one; no ticks were dropped.
        late_trades(
            &stores,
            "(10, 1, 6000000000000000000, 100), (20, 2, 6000000000000000000, 101), (30, 3, 100000000, 102)",
        )
        .await;
        stores
            .database
            .execute("DELETE FROM candles_1m; DELETE FROM complete_since")
            .await;
        let repaired = repair(&stores);
        assert_eq!(stores.database.text(CANDLE).await, "(1,3,1,3,6000000000100000000,2)");
        let command = "aggregator-admin symbols set XRPETH --volume-decimals 4 --rescale";
        assert!(repaired.stdout.contains(command), "{}", repaired.stdout);
        let dead = stores.redis.entries(Stream::Dead).await;
        assert!(dead.len() == 1 && dead[0].contains(command), "{dead:?}");
        let verified = stores.admin(&["verify"]);
        assert_eq!(verified.code, Some(0), "{}", verified.stdout);

        let arguments: Vec<&str> = command.split(' ').skip(1).collect();
        assert_eq!(stores.admin(&arguments).code, Some(0));
        repair(&stores);
        assert_eq!(stores.database.text(CANDLE).await, "(1,3,1,3,1200000000010000,3)");
        assert_eq!(
            stores.database.number("SELECT volume FROM candles_1d").await,
            1_200_000_000_010_000
        );
        assert_eq!(stores.admin(&["verify"]).code, Some(0));
    }
}

#[tokio::test]
async fn a_trade_that_does_not_fit_a_candle_whose_ticks_were_dropped_can_join_it_later() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        let big = "(20, 60, 9223372036854775801, 200)";
        late_trades(&stores, &format!("{big}, (30, 40, 1, 201)")).await;
        let repaired = repair(&stores);
        assert!(repaired.stdout.contains("lacks a trade"), "{}", repaired.stdout);
        assert_eq!(stores.database.text(CANDLE).await, "(50,50,40,40,8,2)");
        assert_eq!(
            stores.database.number("SELECT count(*) FROM ticks").await,
            1,
            "it is a dead letter now"
        );
        let dead = stores.redis.entries(Stream::Dead).await.join("\n");
        assert!(
            dead.contains("\"trade_id\":\"200\"") && dead.contains("\"qty\":\"92233720368.54775801\""),
            "{dead}"
        );
        assert_eq!(stores.admin(&["verify"]).code, Some(0));
        // The dead letter is requeued after the symbol was rescaled.
        late_trades(&stores, "(20, 60, 100, 300)").await;
        repair(&stores);
        assert_eq!(stores.database.text(CANDLE).await, "(50,60,40,40,108,3)");
    }
}

#[tokio::test]
async fn a_candle_with_more_trades_than_ticks_is_reported_and_lowered_only_by_force() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        late_trades(&stores, "(30, 60, 1, 5)").await;
        stores
            .database
            .execute("DELETE FROM complete_since; UPDATE candles_1m SET trades = 9")
            .await;
        let verified = stores.admin(&["verify"]);
        assert_eq!(verified.code, Some(1), "{}", verified.stdout);
        let refused = stores.admin(&["repair", "XRPETH", "--from", "2019-10-11", "--to", "2019-10-12"]);
        assert_eq!(refused.code, Some(1));
        let command = "aggregator-admin repair XRPETH --from 2019-10-11T00:00:00Z --to 2019-10-11T00:01:00Z --force";
        assert!(refused.stdout.contains(command), "{}", refused.stdout);
        assert_eq!(stores.database.text(CANDLE).await, "(50,50,50,50,7,9)");
        let arguments: Vec<&str> = command.split(' ').skip(1).collect();
        assert_eq!(stores.admin(&arguments).code, Some(0));
        assert_eq!(stores.database.text(CANDLE).await, "(60,60,60,60,1,1)");
        assert_eq!(stores.admin(&["verify"]).code, Some(0));
    }
}
