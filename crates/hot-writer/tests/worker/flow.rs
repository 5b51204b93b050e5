//! Effects of ticks and signals in Redis.

use std::time::UNIX_EPOCH;

use storage_core::domain::candle::Candle;
use storage_core::domain::entry::Fields;
use storage_core::domain::prices::Prices;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles::decode_entry;
use storage_core::redis::codec::dead::decode_entry as decode_dead_letter;
use storage_core::redis::stream::{HOT_WRITER, Stream};
use storage_core::redis::{hot, keys, symbols};
use storage_core::testing::redis::TestRedis;

use crate::{CANDLES, CLOSE_US, DAY_US, MINUTE_US, TICKS, current, entries, fold, symbol, tick, worker};

/// Returns the closed minutes that the worker has sent to the history, in their order.
async fn sent(redis: &TestRedis) -> Vec<Candle> {
    let sent = entries(redis, CANDLES).await;
    sent.iter().map(|entry| decode_entry(entry).unwrap().1).collect()
}

#[tokio::test]
async fn a_tick_is_the_latest_and_opens_a_candle_of_every_timeframe() {
    let redis = TestRedis::prepared(1).await;
    let worker = worker(&redis).start("one");
    fold(&redis, &[tick(DAY_US + 1, "10", 1), tick(DAY_US + 2, "12.5", 2)]).await;

    let latest = hot::hash(&mut redis.connect(), &keys::tick_latest(&symbol()))
        .await
        .unwrap();
    let fields = ["price", "qty", "ts_us", "trade_id", "side"].map(|name| latest[name].as_str());
    assert_eq!(fields, ["12.5", "0.5", "1570752000000002", "2", "buy"]);
    for timeframe in Timeframe::ALL {
        let state = current(&redis, timeframe).await.unwrap();
        let candle = state.candle;
        assert_eq!((candle.start_us, candle.trades, state.is_final), (DAY_US, 2, false));
        assert_eq!(
            (candle.open, candle.high, candle.low, candle.close),
            (10.0, 12.5, 10.0, 12.5)
        );
        assert_eq!(candle.volume.to_string(), "1");
    }
    assert!(entries(&redis, CANDLES).await.is_empty());
    worker.stop().await;
}

#[tokio::test]
async fn a_closed_minute_is_sent_to_the_history_once() {
    let redis = TestRedis::prepared(1).await;
    let worker = worker(&redis).start("one");
    fold(
        &redis,
        &[
            tick(DAY_US, "10", 1),
            tick(DAY_US + MINUTE_US - 1, "11", 2),
            tick(CLOSE_US, "12", 3),
        ],
    )
    .await;
    fold(&redis, &[tick(CLOSE_US + 1, "12", 4)]).await;

    let [minute] = sent(&redis).await.try_into().unwrap();
    assert_eq!((minute.start_us, minute.trades, minute.close), (DAY_US, 2, 11.0));
    let key = keys::candle_recent(Timeframe::M1, &symbol(), DAY_US);
    let recent = hot::candles(&mut redis.connect(), &[key])
        .await
        .unwrap()
        .remove(0)
        .unwrap();
    assert!(recent.is_final);
    assert_eq!(recent.candle, minute);
    assert_eq!(current(&redis, Timeframe::M1).await.unwrap().candle.start_us, CLOSE_US);
    assert_eq!(worker.metric("hot_writer_candles_closed_total").await, 1.0);
}

#[tokio::test]
async fn a_repeated_trade_id_counts_once() {
    let redis = TestRedis::prepared(1).await;
    let worker = worker(&redis).start("one");
    fold(&redis, &[tick(DAY_US, "10", 1), tick(DAY_US, "10", 1)]).await;
    fold(&redis, &[tick(DAY_US, "10", 1), tick(DAY_US, "10", 2)]).await;
    assert_eq!(current(&redis, Timeframe::M1).await.unwrap().candle.trades, 2);
    assert_eq!(worker.metric("hot_writer_ticks_duplicate_total").await, 2.0);
    assert_eq!(worker.metric("hot_writer_ticks_folded_total").await, 2.0);
}

#[tokio::test]
async fn prices_below_zero_and_sides_of_other_words_are_counted_and_other_units_of_time_are_named() {
    let redis = TestRedis::prepared(1).await;
    let worker = worker(&redis).start("one");
    let with = |name: &str, value: &str, mut tick: Fields| {
        tick.iter_mut()
            .filter(|(field, _)| *field == name)
            .for_each(|(_, old)| *old = value.to_owned());
        tick
    };
    fold(
        &redis,
        &[
            tick(DAY_US, "-37.63", 1),
            tick(DAY_US / 1_000, "10", 2),
            with("side", "bid", tick(DAY_US, " 10", 3)),
            with("side", "SELL", tick(DAY_US + 1, "1e01", 4)),
        ],
    )
    .await;
    let reasons: Vec<_> = entries(&redis, Stream::Dead)
        .await
        .iter()
        .map(|entry| decode_dead_letter(entry).reason)
        .collect();
    assert!(
        reasons[0].contains("run `aggregator-admin symbols set BTCUSDT --prices any`"),
        "{reasons:?}"
    );
    assert_eq!(
        reasons[1..],
        ["field `ts_us` looks like milliseconds; it must be in µs since 1970"]
    );
    symbols::store(&mut redis.connect(), &symbol(), 8, Prices::Any)
        .await
        .unwrap();
    fold(&redis, &[tick(DAY_US + 2, "-37.63", 1), tick(DAY_US + 3, "0", 5)]).await;

    let candle = current(&redis, Timeframe::M1).await.unwrap().candle;
    assert_eq!(
        (candle.trades, candle.open, candle.high, candle.low, candle.close),
        (4, 10.0, 10.0, -37.63, 0.0)
    );
    assert_eq!(worker.metric("hot_writer_ticks_unknown_side_total").await, 1.0);
    assert_eq!(
        worker
            .metric("hot_writer_dead_letters_total{reason=\"invalid_field\"}")
            .await,
        2.0
    );
}

#[tokio::test]
async fn a_late_tick_within_the_amend_window_raises_the_revision() {
    let redis = TestRedis::prepared(1).await;
    let worker = worker(&redis).start("one");
    fold(&redis, &[tick(DAY_US, "10", 1), tick(CLOSE_US, "12", 2)]).await;
    fold(&redis, &[tick(DAY_US + 1, "9", 3)]).await;

    let [closed, amended] = sent(&redis).await.try_into().unwrap();
    assert!(closed.revision < amended.revision);
    assert_eq!((closed.trades, closed.low), (1, 10.0));
    assert_eq!((amended.trades, amended.low, amended.close), (2, 9.0, 9.0));
    assert_eq!(worker.metric("hot_writer_candles_amended_total").await, 1.0);
}

#[tokio::test]
async fn a_tick_beyond_the_amend_window_requests_a_repair() {
    let redis = TestRedis::prepared(1).await;
    let _worker = worker(&redis).start("one");
    fold(
        &redis,
        &[tick(DAY_US, "10", 1), tick(CLOSE_US + 10 * MINUTE_US, "12", 2)],
    )
    .await;
    fold(&redis, &[tick(DAY_US + 1, "9", 3)]).await;

    assert_eq!(sent(&redis).await.len(), 1);
    let repairs = redis.entries(Stream::Repairs).await;
    let (larger, minutes): (Vec<_>, Vec<_>) = repairs.iter().partition(|repair| repair.contains("timeframe="));
    assert_eq!((minutes.len(), larger.len()), (1, 5), "{repairs:?}");
    assert!(
        minutes[0].contains("symbol=BTCUSDT time=2019-10-11T00:00:00Z"),
        "{repairs:?}"
    );
}

#[tokio::test]
async fn a_bad_entry_becomes_a_dead_letter_with_its_reason() {
    let redis = TestRedis::prepared(1).await;
    let worker = worker(&redis).start("one");
    let without = |name: &str| {
        let mut fields = tick(DAY_US, "10", 1);
        fields.retain(|(field, _)| *field != name);
        fields
    };
    let bad = redis.add(TICKS, &without("price")).await;
    redis.add(TICKS, &tick(DAY_US, "ten", 2)).await;
    redis.add(TICKS, &tick(4_102_444_800_000_000, "10", 3)).await;
    fold(&redis, &[tick(DAY_US, "10", 4)]).await;

    let letters: Vec<_> = entries(&redis, Stream::Dead)
        .await
        .iter()
        .map(decode_dead_letter)
        .collect();
    assert_eq!((letters[0].stream.as_str(), letters[0].id), ("stream:ticks:0", bad));
    assert_eq!(letters[0].fields["trade_id"], "1");
    for (letter, field) in letters.iter().zip(["price", "price", "ts_us"]) {
        assert!(letter.reason.contains(field), "{letter:?}");
    }
    assert_eq!(letters.len(), 3);
    for reason in ["missing_field", "invalid_field", "future"] {
        let name = format!("hot_writer_dead_letters_total{{reason=\"{reason}\"}}");
        assert_eq!(worker.metric(&name).await, 1.0, "{name}");
    }
    assert_eq!(current(&redis, Timeframe::M1).await.unwrap().candle.trades, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_signal_becomes_active_and_a_bad_one_a_dead_letter() {
    let redis = TestRedis::prepared(1).await;
    let _worker = worker(&redis).start("one");
    let ts_us = UNIX_EPOCH.elapsed().unwrap().as_micros().to_string();
    let signal = |strength: &str| {
        let fields = [
            ("signal_id", "1"),
            ("symbol", crate::SYMBOL),
            ("strategy", "breakout"),
            ("side", "buy"),
            ("strength", strength),
            ("price", "10"),
            ("ts_us", &ts_us),
            ("ttl_ms", "3600000"),
        ];
        fields.map(|(name, value)| (name, value.to_owned())).to_vec()
    };
    redis.add_all(Stream::Signals, &[signal("0.5"), signal("strong")]).await;
    redis.drained(Stream::Signals, HOT_WRITER).await;

    let active = hot::hash(&mut redis.connect(), &keys::signal_active(&symbol()))
        .await
        .unwrap();
    assert_eq!(
        (active["signal_id"].as_str(), active["strength"].as_str()),
        ("1", "0.5")
    );
    let [letter] = entries(&redis, Stream::Dead).await.try_into().unwrap();
    assert!(decode_dead_letter(&letter).reason.contains("strength"));
}
