//! Rows that reach the tables, and announcements to other workers.

use std::time::{Duration, SystemTime};

use storage_core::postgres::edition::Edition;
use storage_core::redis::stream::Stream;
use storage_core::testing::polling::until_true;
use storage_core::testing::postgres::TestDatabase;

use crate::harness::Stores;
use crate::{MINUTE_US, OLD_US, candle, candles_of, signal, symbol, tick, ticks_of};

#[tokio::test]
async fn candles_ticks_signals_and_dead_letters_reach_their_tables_on_every_edition() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::with(database).await;
        let worker = stores.worker("one");
        let candles = (0..90)
            .map(|minute| candle("XRPETH", OLD_US + minute * MINUTE_US, 5, 10, 2))
            .collect::<Vec<_>>();
        let ticks = (0..300)
            .map(|n| tick("XRPETH", OLD_US + n, "0.00031099999999999997", n))
            .collect::<Vec<_>>();
        stores.redis.add_all(candles_of("XRPETH"), &candles).await;
        stores.redis.add_all(ticks_of("XRPETH"), &ticks).await;
        stores
            .redis
            .add_all(
                Stream::Signals,
                &[signal("s1", 0.5), signal("s2", 0.25), vec![("symbol", "X".to_owned())]],
            )
            .await;
        stores
            .redis
            .add_all(Stream::Dead, &[vec![("rubbish", "\u{0}".to_owned())]])
            .await;
        stores
            .drained(&[candles_of("XRPETH"), ticks_of("XRPETH"), Stream::Signals, Stream::Dead])
            .await;

        assert_eq!(stores.database.number("SELECT count(*) FROM candles_1m").await, 90);
        assert_eq!(
            stores.database.number("SELECT sum(volume) FROM candles_1m").await,
            90 * 300_000_000
        );
        assert_eq!(stores.database.number("SELECT count(*) FROM ticks").await, 300);
        assert_eq!(
            stores.database.number("SELECT sum(lots) FROM ticks").await,
            300 * 31_100
        );
        assert_eq!(stores.database.number("SELECT count(*) FROM signals").await, 2);
        assert_eq!(
            stores
                .database
                .number("SELECT count(*) FROM dead_letters WHERE stream = 'stream:dead'")
                .await,
            1
        );
        assert_eq!(
            stores.database.texts("SELECT symbol AS text FROM symbols").await,
            ["XRPETH"]
        );
        assert_eq!(
            stores.redis.entries(Stream::Rollups).await,
            ["from=2019-10-11T00:00:00Z to=2019-10-11T01:30:00Z"]
        );

        worker.ready().await;
        assert_eq!(
            worker.metric("warm_syncer_rows_written_total{kind=\"candles\"}").await,
            90.0
        );
        assert_eq!(
            worker.metric("warm_syncer_rows_written_total{kind=\"ticks\"}").await,
            300.0
        );
        let skipped = "warm_syncer_skipped_entries_total{kind=\"signals\",reason=\"missing_field\"}";
        assert_eq!(worker.metric(skipped).await, 1.0);
        until_true("the measured lag is gone", async || {
            worker.metric("warm_syncer_lag_entries{kind=\"dead\"}").await == 0.0
        })
        .await;
        worker.stop().await;
    }
}

#[tokio::test]
async fn a_tick_that_hot_writer_rejects_is_skipped_and_a_repeated_one_is_written_once() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let _worker = stores.worker("one");
    let far = OLD_US * 2;
    let (one, other) = (ticks_of("BTCUSDT"), Stream::Ticks(1));
    let misplaced = if one == other { Stream::Ticks(0) } else { other };
    let good = tick("BTCUSDT", OLD_US, "1", 7);
    let too_fine = tick("BTCUSDT", OLD_US, "0.0000000001", 8);
    stores
        .redis
        .add_all(
            one,
            &[good.clone(), good.clone(), tick("BTCUSDT", far, "1", 9), too_fine],
        )
        .await;
    stores.redis.add_all(misplaced, &[good]).await;
    stores.drained(&[one, misplaced]).await;
    assert_eq!(stores.database.number("SELECT count(*) FROM ticks").await, 1);
    assert_eq!(stores.redis.entries(Stream::Dead).await, Vec::<String>::new());
}

#[tokio::test]
async fn the_size_of_lots_is_the_symbols() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    stores
        .database
        .execute("INSERT INTO symbols (symbol, volume_decimals) VALUES ('PEPE', 1), ('HUGE', 0)")
        .await;
    let _worker = stores.worker("one");
    stores
        .redis
        .add_all(candles_of("PEPE"), &[candle("PEPE", OLD_US, 5, 10, 3)])
        .await;
    stores
        .redis
        .add_all(candles_of("HUGE"), &[candle("HUGE", OLD_US, 5, 10, 3)])
        .await;
    stores
        .redis
        .add_all(
            ticks_of("PEPE"),
            &[tick("PEPE", OLD_US, "1.5", 1), tick("PEPE", OLD_US, "1.0176e14", 2)],
        )
        .await;
    stores
        .drained(&[candles_of("PEPE"), candles_of("HUGE"), ticks_of("PEPE"), Stream::Dead])
        .await;
    assert_eq!(
        stores
            .database
            .number("SELECT volume FROM candles_1m WHERE symbol = 'PEPE'")
            .await,
        45
    );
    assert_eq!(
        stores.database.number("SELECT max(lots) FROM ticks").await,
        1_017_600_000_000_000
    );
    let reasons = stores.database.texts("SELECT reason AS text FROM dead_letters").await;
    assert!(
        reasons[0].contains("`aggregator-admin symbols set HUGE --volume-decimals 8 --rescale`"),
        "{reasons:?}"
    );
    // The minute is computed from its ticks until the command was run.
    let repair = format!("symbol=HUGE time=2019-10-11T00:00:00Z revision={}", 10_i64 << 22);
    assert_eq!(stores.redis.entries(Stream::Repairs).await, [repair]);

    // The candle is requeued after the command, and replaces one of the same revision that lacks some of its trades.
    stores
        .database
        .execute(&format!(
            "UPDATE symbols SET volume_decimals = 8 WHERE symbol = 'HUGE';
             INSERT INTO candles_1m VALUES ('2019-10-11 00:00Z', 'HUGE', 1, 1, 1, 1, 100000000, 1, {})",
            10_i64 << 22
        ))
        .await;
    stores
        .redis
        .add_all(candles_of("HUGE"), &[candle("HUGE", OLD_US, 5, 10, 3)])
        .await;
    stores.drained(&[candles_of("HUGE")]).await;
    assert_eq!(
        stores
            .database
            .number("SELECT trades FROM candles_1m WHERE symbol = 'HUGE'")
            .await,
        3
    );
}

#[tokio::test]
async fn a_minute_holds_its_newest_revision_whatever_the_order_of_arrival() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let _worker = stores.worker("one");
    let stream = candles_of("XRPETH");
    stores
        .redis
        .add_all(stream, &[candle("XRPETH", OLD_US, 5, 20, 3)])
        .await;
    stores.drained(&[stream]).await;
    stores
        .redis
        .add_all(
            stream,
            &[candle("XRPETH", OLD_US, 5, 10, 2), candle("XRPETH", OLD_US, 5, 30, 4)],
        )
        .await;
    stores.drained(&[stream]).await;
    stores
        .redis
        .add_all(stream, &[candle("XRPETH", OLD_US, 5, 20, 3)])
        .await;
    stores.drained(&[stream]).await;
    assert_eq!(stores.database.number("SELECT trades FROM candles_1m").await, 4);
    assert_eq!(stores.redis.entries(Stream::Repairs).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_candle_that_lacks_ticks_of_the_row_is_repaired_instead_of_written() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let worker = stores.worker("one");
    let stream = candles_of("XRPETH");
    stores
        .redis
        .add_all(stream, &[candle("XRPETH", OLD_US, 5, 20, 3)])
        .await;
    stores.drained(&[stream]).await;
    stores
        .redis
        .add_all(stream, &[candle("XRPETH", OLD_US, 90, 90, 1)])
        .await;
    stores.drained(&[stream]).await;
    assert_eq!(stores.database.number("SELECT trades FROM candles_1m").await, 3);
    let repair = format!("symbol=XRPETH time=2019-10-11T00:00:00Z revision={}", 90_i64 << 22);
    assert_eq!(stores.redis.entries(Stream::Repairs).await, [repair]);
    assert_eq!(worker.metric("warm_syncer_repairs_requested_total").await, 1.0);
}

#[tokio::test]
async fn a_change_within_the_refresh_window_is_not_announced() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let _worker = stores.worker("one");
    let hour_ago = SystemTime::UNIX_EPOCH.elapsed().unwrap() - Duration::from_secs(3_600);
    let start_us = i64::try_from(hour_ago.as_secs() / 60 * 60).unwrap() * 1_000_000;
    stores
        .redis
        .add_all(candles_of("XRPETH"), &[candle("XRPETH", start_us, 5, 20, 3)])
        .await;
    stores.drained(&[candles_of("XRPETH")]).await;
    assert_eq!(stores.database.number("SELECT count(*) FROM candles_1m").await, 1);
    assert_eq!(stores.redis.entries(Stream::Rollups).await, Vec::<String>::new());
}

#[tokio::test]
async fn several_replicas_share_the_work() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let workers = [stores.worker("one"), stores.worker("two"), stores.worker("three")];
    let names = ["A", "B", "C", "D"];
    for name in names {
        let revised =
            |minute: i64, to: u64| candle(name, OLD_US + minute * MINUTE_US, 5, to, i64::try_from(to).unwrap());
        let candles: Vec<_> = (0..500)
            .flat_map(|minute| [revised(minute, 10), revised(minute, 30), revised(minute, 20)])
            .collect();
        stores.redis.add_all(candles_of(name), &candles).await;
        let ticks: Vec<_> = (0..5_000)
            .map(|n| tick(symbol(name).as_str(), OLD_US + n, "2", n))
            .collect();
        stores.redis.add_all(ticks_of(name), &ticks).await;
    }
    let streams = [
        Stream::Candles(0),
        Stream::Candles(1),
        Stream::Ticks(0),
        Stream::Ticks(1),
    ];
    stores.drained(&streams).await;
    assert_eq!(
        stores
            .database
            .number("SELECT count(*) FROM candles_1m WHERE trades = 30")
            .await,
        2_000
    );
    assert_eq!(stores.database.number("SELECT count(*) FROM ticks").await, 20_000);
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn heartbeats_become_the_coverage_of_their_feed() {
    let coverage = "SELECT feed || ' ' || extract(epoch FROM since) - 1600000000 || '-'
            || extract(epoch FROM until) - 1600000000 || ' ' || array_to_string(symbols, ',') AS text
        FROM coverage ORDER BY feed, since";
    for database in TestDatabase::start_each().await {
        let stores = Stores::with(database).await;
        let worker = stores.worker("one");
        let beat = async |second: i64, more: &[(&'static str, &str)]| {
            let mut fields = vec![
                ("feed", "binance-spot".to_owned()),
                ("ts_us", (1_600_000_000_000_000 + second * 1_000_000).to_string()),
            ];
            fields.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
            stores.redis.add(Stream::Feeds, &fields).await;
            stores.drained(&[Stream::Feeds]).await;
        };
        beat(0, &[("symbols", "ETHUSDT BTCUSDT")]).await;
        beat(5, &[]).await;
        beat(10, &[("state", "down")]).await;
        beat(100, &[]).await;
        beat(105, &[("symbols", "BTCUSDT")]).await;
        beat(110, &[("state", "asleep")]).await;
        let expected = [
            "binance-spot 0.000000-10.000000 BTCUSDT,ETHUSDT",
            "binance-spot 100.000000-105.000000 BTCUSDT,ETHUSDT",
            "binance-spot 105.000000-105.000000 BTCUSDT",
        ];
        assert_eq!(stores.database.texts(coverage).await, expected);
        let dead = stores.redis.entries(Stream::Dead).await.join("\n");
        assert!(dead.contains("field `state` must be `up` or `down`"), "{dead}");
        worker.stop().await;
    }
}
