//! `gaps` tells traded, quiet and missing minutes from evidence.

use storage_core::domain::candle::Candle;
use storage_core::domain::entry::Fields;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::time::rfc3339;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles;
use storage_core::redis::stream::{Stream, WARM_SYNCER};
use storage_core::testing::polling::until;
use storage_core::testing::postgres::TestDatabase;

use crate::harness::Stores;
use crate::{MINUTE_US, OLD_US, symbol, ticks};

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

/// Returns the heartbeats of a feed, one every ten seconds from minute `from` to minute `to`.
fn heartbeats(from: i64, to: i64, more: &[(&'static str, &str)]) -> Vec<Fields> {
    let beat = |second: i64| {
        let mut fields = vec![
            ("feed", "binance-spot".to_owned()),
            ("ts_us", (OLD_US + second * 1_000_000).to_string()),
        ];
        fields.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        fields
    };
    (6 * from..=6 * to).map(|tens| beat(10 * tens)).collect()
}

#[tokio::test]
async fn heartbeats_in_the_stream_tell_a_disconnected_feed_from_a_halt() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        let syncer = stores.warm_syncer();
        let subscribed = [("symbols", "B XRPETH")];
        // Without heartbeats for ten minutes, announced as down for ten more, and no trade of B at all.
        let beats = [
            heartbeats(0, 0, &subscribed),
            heartbeats(0, 30, &[]),
            heartbeats(40, 60, &[]),
            heartbeats(60, 60, &[("state", "down")]),
            heartbeats(70, 90, &[]),
        ];
        stores.redis.add_all(Stream::Feeds, &beats.concat()).await;
        stores.redis.drained(Stream::Feeds, WARM_SYNCER).await;
        let to = rfc3339(OLD_US + 90 * MINUTE_US);
        for name in ["XRPETH", "B"] {
            let found = stores.admin(&["gaps", name, "--from", "2019-10-11", "--to", &to]);
            assert_eq!(found.code, Some(1), "{}{}", found.stdout, found.stderr);
            let counts = format!("minutes of {name}: 0 traded, 70 quiet, 20 missing, 0 not expected");
            assert!(found.stdout.contains(&counts), "{}", found.stdout);
            for [from, to] in [[30, 40], [60, 70]] {
                let [from, to] = [from, to].map(|minute| rfc3339(OLD_US + minute * MINUTE_US));
                assert!(found.stdout.contains(&format!("{from}   {to}")), "{}", found.stdout);
            }
        }
        syncer.stop().await;
    }
}

#[tokio::test]
async fn a_database_of_an_older_dump_under_a_live_redis_is_found_and_mended_by_a_restart() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        let closed = match ticks() {
            Stream::Ticks(partition) => Stream::Candles(partition),
            other => other,
        };
        // A trade per minute for an hour, accepted when it happened. Its IDs are no evidence.
        for minute in 0..60 {
            let (ts_us, ms) = (
                OLD_US + minute * MINUTE_US,
                (OLD_US + minute * MINUTE_US).unsigned_abs() / 1_000,
            );
            let revision = StreamId::at_ms(ms).try_into().unwrap();
            let candle = Candle::of_tick(Timeframe::M1, ts_us, 10.0, "1".parse().unwrap(), revision);
            let trade = vec![
                ("symbol", symbol().to_string()),
                ("ts_us", ts_us.to_string()),
                ("price", "10".to_owned()),
                ("qty", "1".to_owned()),
                ("trade_id", format!("t{minute}")),
            ];
            for (stream, fields) in [(ticks(), trade), (closed, candles::entry_fields(&symbol(), &candle))] {
                let mut add = redis::cmd("XADD");
                add.arg(stream.key()).arg(format!("{ms}-0"));
                for (name, value) in fields {
                    add.arg(name).arg(value);
                }
                add.exec_async(&mut stores.redis.connect()).await.unwrap();
            }
        }
        let syncer = stores.warm_syncer();
        for stream in [ticks(), closed] {
            stores.redis.drained(stream, WARM_SYNCER).await;
        }
        let gaps = ["gaps", "XRPETH", "--from", "2019-10-11", "--to", "2019-10-11T01:00:00Z"];
        let whole = stores.admin(&gaps);
        assert_eq!(whole.code, Some(0), "{}{}", whole.stdout, whole.stderr);
        syncer.stop().await;
        // The dump was made after 20 minutes.
        stores
            .database
            .execute(
                "DELETE FROM ticks WHERE time >= '2019-10-11 00:20Z';
                 DELETE FROM candles_1m WHERE time >= '2019-10-11 00:20Z';
                 UPDATE positions SET revision = (SELECT max(revision) FROM ticks)
                 WHERE stream LIKE 'stream:ticks:%' OR stream LIKE 'stream:candles:%'",
            )
            .await;
        let found = stores.admin(&gaps);
        assert_eq!(found.code, Some(1), "{}", found.stdout);
        assert!(
            found
                .stdout
                .contains("Redis counts entries as written that the database lacks")
                && found.stderr.contains("start warm-syncer, or restart it"),
            "{}{}",
            found.stdout,
            found.stderr
        );
        let syncer = stores.warm_syncer();
        until("no minute is missing", async || match stores.admin(&gaps) {
            mended if mended.code == Some(0) => Ok(()),
            missing => Err(missing.stdout),
        })
        .await;
        assert_eq!(stores.database.number("SELECT count(*) FROM ticks").await, 60);
        assert_eq!(stores.database.number("SELECT count(*) FROM candles_1m").await, 60);
        syncer.stop().await;
    }
}
