//! `verify` finds what was changed by hand, and mends it.

use storage_core::domain::candle::Candle;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::redis::clock::now_ms;
use storage_core::redis::codec::candles::hash_fields;
use storage_core::redis::functions::{Expiry, put};
use storage_core::redis::keys;
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::program::Outcome;

use crate::harness::Stores;
use crate::{OLD_US, symbol, ticks};

/// Three days of three symbols with a minute of two trades every 17 minutes, all candles, and as much before the time
/// from which on ticks are complete.
const HISTORY: &str = "
    INSERT INTO symbols (symbol) VALUES ('XRPETH'), ('B'), ('C');
    INSERT INTO ticks (time, symbol, price, lots, trade_no, trade_key, revision)
    SELECT '2019-10-11 00:00Z'::timestamptz + n * INTERVAL '17 minutes' + t * INTERVAL '13 seconds', symbol,
        10 + (n * 7 + t) % 5, 100 + n, 10 * n + t, '', (1000 + 10 * n + t) * 4194304::bigint + ascii(symbol)
    FROM symbols, generate_series(0, 250) n, generate_series(1, 2) t;
    INSERT INTO candles_1m
    SELECT time_bucket(INTERVAL '1 minute', time), symbol, first(price, time), max(price), min(price),
        last(price, time), sum(lots), count(*), max(revision)
    FROM ticks GROUP BY 1, 2;
    INSERT INTO ticks (time, symbol, price, lots, trade_no, trade_key, revision)
    SELECT '2019-10-13 23:58Z', 'C', 5, 9, 1, '', 1;
    INSERT INTO candles_1m SELECT '2019-10-13 23:58Z', 'C', 5, 5, 5, 5, 9, 1, 1";

const SYMBOLS: [&str; 3] = ["XRPETH", "B", "C"];
const ROUNDS: u64 = 10;
const PER_ROUND: u64 = 10;

/// Numbers at random, the same ones for a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Returns the hypertable of `timeframe`.
async fn stored(database: &TestDatabase, timeframe: Timeframe) -> String {
    if database.edition() == Edition::Apache || timeframe == Timeframe::M1 {
        return timeframe.table().to_owned();
    }
    let name = format!(
        "SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)
         FROM timescaledb_information.continuous_aggregates WHERE view_name = '{}'",
        timeframe.table()
    );
    database.text(&name).await
}

fn passes(outcome: &Outcome) {
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
}

/// Changes the history or the hot view by hand, and returns the text of the finding.
async fn mutate(stores: &Stores, random: &mut Random, round: u64, number: u64) -> String {
    let symbol = SYMBOLS[usize::try_from(number % 3).unwrap()];
    // A mutation has a minute of its own, and in its round a bucket of its own of each timeframe up to 4 hours.
    let minute = 17 * (16 * number + round);
    let bucket = |timeframe: Timeframe| {
        let start_us = timeframe.bucket_start_us(OLD_US + i64::try_from(minute).unwrap() * 60_000_000);
        storage_core::domain::time::rfc3339(start_us)
    };
    let database = &stores.database;
    let kind = random.below(12);
    let at = bucket(Timeframe::M1);
    let ticks_of_minute =
        format!("symbol = '{symbol}' AND time >= '{at}' AND time < '{at}'::timestamptz + INTERVAL '1 minute'");
    let (statement, timeframe, time) = match kind {
        0 => (
            format!("DELETE FROM ticks WHERE {ticks_of_minute} AND trade_no % 10 = 1"),
            Timeframe::M1,
            at,
        ),
        1 => (
            format!("UPDATE ticks SET lots = lots + 1 WHERE {ticks_of_minute}"),
            Timeframe::M1,
            at,
        ),
        2 => (
            format!("UPDATE ticks SET price = price + 77 WHERE {ticks_of_minute} AND trade_no % 10 = 2"),
            Timeframe::M1,
            at,
        ),
        3 => (
            format!(
                "INSERT INTO ticks (time, symbol, price, lots, trade_no, trade_key, revision)
                 VALUES ('{at}'::timestamptz + INTERVAL '7 seconds', '{symbol}', 10, 1, 999999, '', 5)"
            ),
            Timeframe::M1,
            at,
        ),
        4 | 5 => {
            // A bucket without a source, in a day with and without candles.
            let timeframe = Timeframe::ALL[usize::try_from(random.below(6)).unwrap()];
            let day = if kind == 4 { "2019-10-11" } else { "2019-09-05" };
            let table = stored(database, timeframe).await;
            let unknown = format!("NEW{number}");
            (
                format!(
                    "INSERT INTO {table} (time, symbol, open, high, low, close, volume, trades, revision)
                     VALUES ('{day} 00:00Z', '{unknown}', 1, 1, 1, 1, 1, 1, 1)"
                ),
                timeframe,
                format!("{day}T00:00:00Z {unknown}"),
            )
        }
        _ => {
            let timeframe = Timeframe::ALL[usize::try_from(random.below(5)).unwrap()];
            let table = stored(database, timeframe).await;
            let at = bucket(timeframe);
            let changes = [
                "open = open + 1",
                "high = high + 1",
                "low = low - 1",
                "close = close + 1",
                "volume = volume + 1",
                "trades = trades + 1",
                "trades = trades - 1",
                "revision = revision + 1",
                "revision = revision - 1",
            ];
            let change = changes[usize::try_from(random.below(9)).unwrap()];
            let row = format!("WHERE symbol = '{symbol}' AND time = '{at}'");
            let statement = match random.below(3) {
                0 => format!("DELETE FROM {table} {row}"),
                _ => format!("UPDATE {table} SET {change} {row}"),
            };
            (statement, timeframe, at)
        }
    };
    database.execute(&statement).await;
    match time.split_once(' ') {
        Some((time, unknown)) => format!("{unknown} {timeframe} {time}: found"),
        None => format!("{symbol} {timeframe} {time}: found"),
    }
}

#[tokio::test]
async fn a_hundred_changes_by_hand_are_found_and_mended() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(HISTORY).await;
        passes(&stores.admin(&["refresh", "--all"]));
        passes(&stores.admin(&["verify"]));
        let mut random = Random(14);
        for round in 0..ROUNDS {
            let mut expected = Vec::new();
            for number in 0..PER_ROUND {
                expected.push(mutate(&stores, &mut random, round, number).await);
            }
            let found = stores.admin(&["verify"]);
            assert_eq!(found.code, Some(1), "round {round}: {expected:?}");
            for finding in &expected {
                assert!(
                    found.stdout.contains(finding),
                    "round {round}: {finding}: {}",
                    found.stdout
                );
            }
            passes(&stores.admin(&["verify", "--repair", "--force"]));
            passes(&stores.admin(&["verify"]));
        }
        let unequal = "SELECT count(*) FROM candles_1m WHERE trades <> (
            SELECT count(*) FROM ticks WHERE ticks.symbol = candles_1m.symbol
            AND ticks.time >= candles_1m.time AND ticks.time < candles_1m.time + INTERVAL '1 minute')";
        assert_eq!(stores.database.number(unequal).await, 0);
    }
}

#[tokio::test]
async fn hashes_of_the_hot_view_that_were_changed_by_hand_are_found_and_mended() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        let redis = &mut stores.redis.connect();
        let now = now_ms(redis).await.unwrap();
        let revision = |seq| Revision::try_from(StreamId { ms: now, seq }).unwrap();
        let ts_us = i64::try_from(now).unwrap() * 1_000;
        stores
            .database
            .execute(&format!(
                "INSERT INTO symbols (symbol) VALUES ('XRPETH');
                 INSERT INTO ticks (time, symbol, price, lots, trade_no, trade_key, revision) VALUES
                     (to_timestamp({0} / 1e6), 'XRPETH', 5, 100000000, 1, '', {1}),
                     (to_timestamp({0} / 1e6), 'XRPETH', 7, 200000000, 2, '', {2})",
                ts_us,
                revision(1).as_i64(),
                revision(2).as_i64()
            ))
            .await;
        let write = async |timeframe| {
            let mut candle = Candle::of_tick(timeframe, ts_us, 5.0, "1".parse().unwrap(), revision(1));
            candle.fold(ts_us, 7.0, "3".parse().unwrap(), revision(2));
            let key = keys::candle_current(timeframe, &symbol());
            put(
                &key,
                revision(2),
                Expiry::AfterMs(3_600_000),
                None,
                &hash_fields(&candle, false),
            )
            .query_async::<i64>(&mut stores.redis.connect())
            .await
            .unwrap();
        };
        for timeframe in Timeframe::ALL {
            write(timeframe).await;
        }
        let latest = [("price", "7"), ("qty", "2"), ("trade_id", "2"), ("side", "")];
        let key = keys::tick_latest(&symbol()).to_string();
        let hset = async |key: &str, fields: &[(&str, &str)]| {
            let mut command = redis::cmd("HSET");
            command.arg(key).arg(fields);
            command.exec_async(&mut stores.redis.connect()).await.unwrap();
        };
        hset(&key, &latest).await;
        hset(
            &key,
            &[("ts_us", &ts_us.to_string()), ("revision", &revision(2).to_string())],
        )
        .await;
        // The minute is open, so the history lacks its candles.
        passes(&stores.admin(&["verify"]));

        let too_high = revision(9).to_string();
        let changes = [
            (key.as_str(), ("price", "8")),
            (key.as_str(), ("revision", too_high.as_str())),
            ("candle:current:1m:XRPETH", ("high", "9")),
            ("candle:current:5m:XRPETH", ("volume", "2")),
            ("candle:current:1h:XRPETH", ("trades", "3")),
            ("candle:current:4h:XRPETH", ("revision", too_high.as_str())),
            ("candle:current:1d:XRPETH", ("open", "6")),
        ];
        for (key, field) in changes {
            hset(key, &[field]).await;
            let found = stores.admin(&["verify"]);
            assert_eq!(found.code, Some(1), "{key} {field:?}: {}{}", found.stdout, found.stderr);
            assert!(found.stdout.contains(&format!("{key}: found (")), "{}", found.stdout);
            assert!(
                found.stderr.contains("`aggregator-admin verify --repair`"),
                "{}",
                found.stderr
            );
            passes(&stores.admin(&["verify", "--repair"]));
            passes(&stores.admin(&["verify"]));
        }
        redis::cmd("DEL")
            .arg("candle:current:15m:XRPETH")
            .exec_async(redis)
            .await
            .unwrap();
        let found = stores.admin(&["verify"]);
        assert!(
            found.stdout.contains("candle:current:15m:XRPETH: found no candle"),
            "{}",
            found.stdout
        );
        passes(&stores.admin(&["verify", "--repair"]));
        passes(&stores.admin(&["verify"]));
    }
}

#[tokio::test]
async fn the_advice_for_each_class_works_as_printed() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(HISTORY).await;
        passes(&stores.admin(&["refresh", "--all"]));
        let larger = stored(&stores.database, Timeframe::H1).await;
        let changes = [
            "UPDATE candles_1m SET high = 99 WHERE symbol = 'B' AND time = '2019-10-11 00:17Z'".to_owned(),
            format!("UPDATE {larger} SET high = 98 WHERE symbol = 'B' AND time = '2019-10-11 03:00Z'"),
            "DELETE FROM ticks WHERE symbol = 'B' AND time < '2019-10-11 00:20Z'".to_owned(),
        ];
        for change in changes {
            stores.database.execute(&change).await;
            // A command may uncover another class: a larger candle is compared with its right minutes.
            for _ in 0..3 {
                let found = stores.admin(&["verify"]);
                if found.code == Some(0) {
                    break;
                }
                let advice = found
                    .stderr
                    .split('`')
                    .find(|part| part.starts_with("aggregator-admin "));
                let advice = advice.unwrap_or_else(|| panic!("{}", found.stderr));
                let arguments: Vec<&str> = advice.split(' ').skip(1).collect();
                passes(&stores.admin(&arguments));
            }
            passes(&stores.admin(&["verify"]));
        }
    }
}

#[tokio::test]
async fn entries_on_their_way_are_no_difference() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(HISTORY).await;
        passes(&stores.admin(&["refresh", "--all"]));
        // Written by one task, while the tick of the same minute waits in its stream.
        stores
            .database
            .execute("UPDATE candles_1m SET trades = 3 WHERE symbol = 'XRPETH' AND time = '2019-10-11'")
            .await;
        stores.redis.add(ticks(), &vec![("symbol", symbol().to_string())]).await;
        let verified = stores.admin(&["verify", "--symbol", "XRPETH", "--to", "2019-10-12", "--wait", "100ms"]);
        passes(&verified);
        let minutes = verified.stdout.lines().find(|line| line.trim_start().starts_with("1m"));
        let minutes: Vec<&str> = minutes.unwrap().split_whitespace().collect();
        assert_eq!(minutes, ["1m", "ticks", "85", "0", "1"]);
    }
}

#[tokio::test]
async fn the_background_comparison_counts_differences() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(HISTORY).await;
        passes(&stores.admin(&["refresh", "--all"]));
        stores
            .database
            .execute("UPDATE candles_1m SET high = high + 1 WHERE symbol = 'B' AND time = '2019-10-11 00:17Z'")
            .await;
        let worker = stores.worker_with(&["admin.verify_share=1"]);
        worker.logged("candles differ from their source").await;
        storage_core::testing::polling::until("every day was compared", async || {
            match stores.database.number("SELECT count(*) FROM verified_days").await {
                days if days >= 3 => Ok(()),
                days => Err(days.to_string()),
            }
        })
        .await;
        storage_core::testing::polling::until_true("the differences are counted", async || {
            worker.metric("aggregator_admin_verify_differences").await >= 1.0
        })
        .await;
        let status = stores.admin(&["status"]);
        assert!(
            status.stdout.contains("run `aggregator-admin verify`"),
            "{}",
            status.stdout
        );
        worker.stop().await;
    }
}

#[tokio::test]
async fn duplicate_rows_of_overlapping_refreshes_are_mended() {
    let Some(database) = TestDatabase::start(Edition::Community).await else {
        return;
    };
    let stores = Stores::ready(database).await;
    stores.database.execute(HISTORY).await;
    passes(&stores.admin(&["refresh", "--all"]));
    for timeframe in &Timeframe::ALL[1..] {
        let table = stored(&stores.database, *timeframe).await;
        let duplicate = format!("INSERT INTO {table} SELECT * FROM {table} WHERE symbol = 'B' AND time < '2019-10-12'");
        stores.database.execute(&duplicate).await;
    }
    let found = stores.admin(&["verify"]);
    assert_eq!(found.code, Some(1), "{}", found.stdout);
    assert!(found.stdout.contains("B 1d 2019-10-11T00:00:00Z: found (") && found.stdout.contains(") in 2 rows"));
    passes(&stores.admin(&["verify", "--repair"]));
    passes(&stores.admin(&["verify"]));
}
