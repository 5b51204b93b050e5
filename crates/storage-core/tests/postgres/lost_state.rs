//! State that Redis has lost, computed from the history.

use storage_core::domain::stream_id::Revision;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::queries::candles::{self, CandleRow};
use storage_core::postgres::queries::ticks::{self, TickRow};
use storage_core::postgres::queries::{bases, newest_ticks, positions};
use storage_core::redis::codec::repairs::Base;
use storage_core::redis::stream::Stream;
use storage_core::testing::postgres::TestDatabase;

use crate::{MINUTE_US, OLD_US, candle, revision, symbol};

fn tick(offset_us: i64, price: f64, number: i64, trade_id: Option<&str>) -> TickRow {
    crate::tick(offset_us, price, trade_id, revision(number).stream_id())
}

fn base(timeframe: Timeframe, until: i64) -> Base {
    Base {
        symbol: symbol("A"),
        timeframe,
        start_us: OLD_US,
        revision: revision(until),
    }
}

#[tokio::test]
async fn a_base_is_the_candle_of_the_ticks_up_to_its_revision() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let rows = [
            tick(5, 30.0, 7, Some("a")),
            tick(5, 20.0, 8, Some("b")),
            tick(MINUTE_US, 40.0, 9, None),
            tick(1, 10.0, 10, Some("c")),
        ];
        ticks::insert(conn, &rows).await.unwrap();
        assert_eq!(bases::compute(conn, &base(Timeframe::D1, 6), 8).await.unwrap(), None);
        let found = bases::compute(conn, &base(Timeframe::D1, 9), 8).await.unwrap().unwrap();
        assert_eq!(
            (found.open, found.high, found.low, found.close),
            (30.0, 40.0, 20.0, 40.0)
        );
        assert_eq!((found.trades, found.volume.to_string()), (3, "1.5".to_owned()));
        assert_eq!((found.first_us, found.last_us), (OLD_US + 5, OLD_US + MINUTE_US));
        assert_eq!((found.since, found.revision), (revision(7), revision(9)));
        let found = bases::compute(conn, &base(Timeframe::M1, 10), 8)
            .await
            .unwrap()
            .unwrap();
        assert_eq!((found.open, found.close, found.trades), (10.0, 20.0, 3));
    }
}

#[tokio::test]
async fn a_minute_whose_ticks_were_dropped_counts_by_its_candle() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let rows = [
            candle("A", 0, 50.0, 5),
            candle("A", 1, 60.0, 8),
            candle("A", 2, 90.0, 20),
        ];
        candles::insert_1m(conn, &rows).await.unwrap();
        let kept = [tick(MINUTE_US, 61.0, 8, None), tick(3 * MINUTE_US, 70.0, 9, None)];
        ticks::insert(conn, &kept).await.unwrap();
        let found = bases::compute(conn, &base(Timeframe::M5, 9), 8).await.unwrap().unwrap();
        assert_eq!(
            (found.open, found.high, found.low, found.close),
            (50.0, 70.0, 49.0, 70.0)
        );
        assert_eq!((found.trades, found.volume.to_string()), (7, "3.5".to_owned()));
    }
}

#[tokio::test]
async fn minutes_whose_candle_lacks_ticks_are_found_and_ticks_are_read_in_stream_order() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let rows = [
            tick(0, 1.0, 10, Some("1")),
            tick(MINUTE_US, 2.0, 20, Some("x")),
            tick(2 * MINUTE_US, 3.0, 30, None),
        ];
        ticks::insert(conn, &rows).await.unwrap();
        let whole = CandleRow {
            revision: revision(10),
            ..candle("A", 0, 1.0, 10)
        };
        let behind = candle("A", 1, 2.0, 19);
        candles::insert_1m(conn, &[whole, behind]).await.unwrap();

        let a = symbol("A");
        let newest = newest_ticks::times(conn, &[a.clone(), symbol("NONE")]).await.unwrap();
        assert_eq!(newest, [(a.clone(), OLD_US + 2 * MINUTE_US)]);
        let mut minutes = newest_ticks::minutes_behind(conn, &a, OLD_US).await.unwrap();
        minutes.sort();
        let found = |minute: usize| (minutes[minute].start_us - OLD_US, minutes[minute].revision);
        assert_eq!(minutes.len(), 2);
        assert_eq!(found(0), (MINUTE_US, revision(20)));
        assert_eq!(found(1), (2 * MINUTE_US, revision(30)));
        let between = ticks::between(conn, &a, OLD_US, revision(10), revision(30))
            .await
            .unwrap();
        let seen: Vec<_> = between
            .iter()
            .map(|tick| tick.accepted(8))
            .map(|accepted| (accepted.tick.trade_id, accepted.origin))
            .collect();
        let origin = |number| revision(number).stream_id();
        assert_eq!(seen, [(Some("x".into()), origin(20)), (None, origin(30))]);
    }
}

#[tokio::test]
async fn a_position_never_moves_back() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        assert_eq!(positions::of(conn, Stream::Ticks(3)).await.unwrap(), None);
        for number in [5, 9, 7] {
            positions::raise(conn, Stream::Ticks(3), revision(number))
                .await
                .unwrap();
        }
        let held: Option<Revision> = positions::of(conn, Stream::Ticks(3)).await.unwrap();
        assert_eq!(held, Some(revision(9)));
    }
}
