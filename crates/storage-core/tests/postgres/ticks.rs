use diesel::{
    QueryableByName, sql_query,
    sql_types::{Nullable, Text},
};
use diesel_async::RunQueryDsl;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::tick::{AcceptedTick, Side, Tick};
use storage_core::postgres::error::{Fault, sqlstate};
use storage_core::postgres::queries::ticks::{self, TickRow};
use storage_core::testing::postgres::TestDatabase;

use crate::{OLD_US, symbol};

pub(crate) fn tick(offset_us: i64, price: f64, trade_id: Option<&str>, seq: u64) -> TickRow {
    let entry = StreamId {
        ms: 1_700_000_000_000,
        seq,
    };
    let accepted = AcceptedTick {
        tick: Tick {
            symbol: symbol("A"),
            ts_us: OLD_US + offset_us,
            price,
            qty: "0.5".parse().unwrap(),
            trade_id: trade_id.map(Into::into),
            side: Some(Side::Sell),
        },
        revision: entry.try_into().unwrap(),
        origin: entry,
    };
    TickRow::new(&accepted, 50_000_000).unwrap()
}

#[derive(QueryableByName)]
struct TradeId {
    #[diesel(sql_type = Nullable<Text>)]
    trade_id: Option<String>,
}

#[tokio::test]
async fn a_tick_counts_once_by_its_trade_id_and_without_one_by_its_entry() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let ids = [
            "1",
            "01",
            "18446744073709551617",
            "f81d4fae-7dec-11d0-a765-00a0c91e6bf6",
        ];
        let mut rows: Vec<_> = (1..).zip(ids).map(|(seq, id)| tick(0, 1.0, Some(id), seq)).collect();
        rows.extend([tick(0, 1.0, None, 10), tick(0, 1.0, None, 11)]);
        assert_eq!(ticks::insert(conn, &rows).await.unwrap(), 6);
        let again: Vec<_> = (100..).zip(ids).map(|(seq, id)| tick(0, 1.0, Some(id), seq)).collect();
        assert_eq!(
            ticks::insert(conn, &again).await.unwrap(),
            0,
            "redelivered under new entries"
        );
        assert_eq!(ticks::insert(conn, &rows).await.unwrap(), 0);
        let twice = [tick(9, 1.0, Some("7"), 200), tick(9, 1.0, Some("7"), 201)];
        assert_eq!(ticks::insert(conn, &twice).await.unwrap(), 1, "twice in one batch");

        let shown: Vec<TradeId> =
            sql_query("SELECT trade_id FROM ticks_in_units WHERE time < '2019-10-11 00:00:00.000001Z' AND qty = 0.5 AND side = 'sell'")
                .get_results(conn)
                .await
                .unwrap();
        let mut shown: Vec<_> = shown.into_iter().map(|row| row.trade_id).collect();
        shown.sort();
        let mut expected: Vec<_> = ids
            .map(|id| Some(id.to_owned()))
            .into_iter()
            .chain([None, None])
            .collect();
        expected.sort();
        assert_eq!(shown, expected);
    }
}

#[tokio::test]
async fn a_minute_is_computed_again_from_its_ticks() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        // The last two share a microsecond: the later entry closes. The very last is of the next minute.
        let rows = [
            tick(5, 10.0, Some("2"), 2),
            tick(5, 11.0, Some("1"), 1),
            tick(30_000_000, 99.0, None, 3),
            tick(59_999_999, 12.0, Some("9"), 8),
            tick(59_999_999, 13.0, Some("8"), 9),
            tick(60_000_000, 500.0, None, 10),
        ];
        ticks::insert(conn, &rows).await.unwrap();
        let computed = ticks::minute(conn, &symbol("A"), OLD_US).await.unwrap().unwrap();
        let minute = &computed.row;
        assert_eq!(
            (minute.open, minute.high, minute.low, minute.close),
            (11.0, 99.0, 10.0, 13.0)
        );
        assert_eq!((minute.volume_lots, minute.trades), (250_000_000, 5));
        assert_eq!(
            (computed.since.stream_id().seq, minute.revision.stream_id().seq),
            (1, 9)
        );
        assert_eq!((computed.first_us, computed.last_us), (OLD_US + 5, OLD_US + 59_999_999));
        assert_eq!(computed.candle(8).volume.to_string(), "2.5");
        assert_eq!(ticks::minute(conn, &symbol("B"), OLD_US).await.unwrap(), None);
    }
}

#[tokio::test]
async fn of_a_trade_that_came_twice_the_first_entry_counts_also_when_it_is_written_last() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        // All of one microsecond: the entry that came first opens.
        ticks::insert(conn, &[tick(0, 11.0, Some("1"), 7)]).await.unwrap();
        let rows = [tick(0, 10.0, Some("1"), 3), tick(0, 12.0, Some("2"), 5)];
        assert_eq!(ticks::insert(conn, &rows).await.unwrap(), 2);
        let minute = ticks::minute(conn, &symbol("A"), OLD_US).await.unwrap().unwrap().row;
        assert_eq!((minute.open, minute.close, minute.trades), (10.0, 12.0, 2));
    }
}

#[tokio::test]
async fn a_minute_beyond_a_bigint_is_an_error_of_the_data() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let mut rows = [1, 2].map(|seq| tick(0, 1.0, None, seq));
        rows.iter_mut().for_each(|row| row.lots = i64::MAX);
        ticks::insert(conn, &rows).await.unwrap();
        let error = ticks::minute(conn, &symbol("A"), OLD_US).await.unwrap_err();
        assert_eq!((sqlstate(&error), Fault::of(&error)), (Some("22003"), Fault::BadRow));
    }
}
