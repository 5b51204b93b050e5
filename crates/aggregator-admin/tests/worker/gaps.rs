//! `gaps` tells traded, quiet and missing minutes from evidence.

use storage_core::testing::postgres::TestDatabase;

use crate::harness::Stores;

/// Six hours of a trade every other minute, with IDs that count up, and all candles.
const HISTORY: &str = "
    INSERT INTO symbols (symbol) VALUES ('XRPETH');
    INSERT INTO ticks (time, symbol, price, lots, trade_no, trade_key, revision)
    SELECT '2019-10-11 00:00:07Z'::timestamptz + n * INTERVAL '2 minutes', 'XRPETH', 10, 100, 5000 + n, '', 1000 + n
    FROM generate_series(0, 179) n;
    INSERT INTO candles_1m
    SELECT time_bucket(INTERVAL '1 minute', time), symbol, price, price, price, price, lots, 1, revision FROM ticks";

const GAPS: [&str; 6] = ["gaps", "XRPETH", "--from", "2019-10-11", "--to", "2019-10-11T06:00:00Z"];

#[tokio::test]
async fn four_hours_that_were_taken_out_of_both_tables_are_found_by_the_trade_ids() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(HISTORY).await;
        let whole = stores.admin(&GAPS);
        assert_eq!(whole.code, Some(0), "{}{}", whole.stdout, whole.stderr);
        assert!(
            whole
                .stdout
                .contains("180 traded, 179 quiet, 0 missing, 1 not expected"),
            "{}",
            whole.stdout
        );
        let taken = "WHERE time >= '2019-10-11 01:00Z' AND time < '2019-10-11 05:00Z'";
        stores
            .database
            .execute(&format!("DELETE FROM ticks {taken}; DELETE FROM candles_1m {taken}"))
            .await;
        let found = stores.admin(&GAPS);
        assert_eq!(found.code, Some(1));
        // The minute before is quiet or not: the last trade before the gap was two minutes earlier.
        assert!(
            found
                .stdout
                .contains("60 traded, 58 quiet, 241 missing, 1 not expected"),
            "{}",
            found.stdout
        );
        assert!(
            found.stdout.contains("trade IDs 5030 to 5149 are missing"),
            "{}",
            found.stdout
        );
        assert!(
            found.stdout.contains("2019-10-11T00:59:00Z   2019-10-11T05:00:00Z"),
            "{}",
            found.stdout
        );
    }
}

#[tokio::test]
async fn heartbeats_tell_a_halt_from_a_feed_that_was_disconnected() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(HISTORY).await;
        stores
            .database
            .execute(
                "UPDATE ticks SET trade_no = 0, trade_key = trade_no::text;
                 INSERT INTO coverage VALUES
                     ('f', '2019-10-11 00:00Z', '2019-10-11 02:00Z', '{XRPETH,B}', true),
                     ('f', '2019-10-11 02:10Z', '2019-10-11 06:00Z', '{XRPETH,B}', false);
                 DELETE FROM candles_1m WHERE time >= '2019-10-11 03:00Z' AND time < '2019-10-11 04:00Z';
                 DELETE FROM ticks WHERE time >= '2019-10-11 03:00Z' AND time < '2019-10-11 04:00Z'",
            )
            .await;
        let found = stores.admin(&GAPS);
        assert_eq!(found.code, Some(1));
        // Every other minute of the ten was traded; the halt of an hour is quiet.
        assert!(
            found
                .stdout
                .contains("150 traded, 205 quiet, 5 missing, 0 not expected"),
            "{}",
            found.stdout
        );
        assert!(found.stdout.contains("feed f was not connected"), "{}", found.stdout);
        let all = stores.admin(&[&GAPS[..], &["--all"]].concat());
        assert!(all.stdout.contains("feed f was connected"), "{}", all.stdout);
        assert_eq!(
            stores
                .admin(&["gaps", "XRPETH", "--from", "2019-10-12", "--to", "2019-10-11"])
                .code,
            Some(64)
        );
    }
}

#[tokio::test]
async fn a_busted_trade_is_not_missing() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(HISTORY).await;
        let bust = "WITH gone AS (DELETE FROM ticks WHERE trade_no = 5090 RETURNING *)
                    INSERT INTO tick_versions (time, symbol, trade_no, trade_key, revision)
                    SELECT time, symbol, trade_no, trade_key, 3000 FROM gone;
                    DELETE FROM candles_1m WHERE time = '2019-10-11 03:00Z'";
        stores.database.execute(bust).await;
        let found = stores.admin(&GAPS);
        assert_eq!(found.code, Some(0), "{}", found.stdout);
        let minutes = "179 traded, 179 quiet, 0 missing, 2 not expected";
        assert!(found.stdout.contains(minutes), "{}", found.stdout);
    }
}
