use diesel::{
    QueryableByName, sql_query,
    sql_types::{Nullable, Text},
};
use diesel_async::RunQueryDsl;
use storage_core::domain::stream_id::StreamId;
use storage_core::postgres::queries::ticks::{self, TickRow};
use storage_core::testing::postgres::TestDatabase;

use crate::{OLD_US, symbol};

pub(crate) fn tick(offset_us: i64, price: f64, trade_id: Option<&str>, seq: u64) -> TickRow {
    let ms = 1_700_000_000_000;
    crate::tick(offset_us, price, trade_id, StreamId { ms, seq })
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

        let shown: Vec<TradeId> = sql_query(
            "SELECT trade_id FROM ticks_in_units
                 WHERE time < '2019-10-11 00:00:00.000001Z' AND qty = 0.5 AND side = 'sell'",
        )
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
async fn the_ticks_of_a_minute_are_read_in_stream_order() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        // The last tick is in the next minute.
        let rows = [
            tick(5, 10.0, Some("1"), 1),
            tick(5, 11.0, Some("f81d4fae"), 2),
            tick(30_000_000, 99.0, None, 3),
            tick(59_999_999, 12.0, Some("01"), 8),
            tick(60_000_000, 500.0, None, 10),
        ];
        ticks::insert(conn, &[3, 0, 4, 2, 1].map(|at| rows[at].clone()))
            .await
            .unwrap();
        let found = ticks::of_minute(conn, &symbol("A"), OLD_US).await.unwrap();
        assert_eq!(found, rows[..4]);
        for row in &found {
            let again = TickRow::new(&row.accepted(8), row.lots).unwrap();
            assert_eq!(&again, row, "the row of the same tick");
        }
        assert_eq!(ticks::of_minute(conn, &symbol("B"), OLD_US).await.unwrap(), []);
        assert_eq!(ticks::delete(conn, &found[2]).await.unwrap(), 1);
        assert_eq!(ticks::of_minute(conn, &symbol("A"), OLD_US).await.unwrap().len(), 3);
    }
}

#[tokio::test]
async fn the_first_entry_of_a_trade_counts_even_if_it_is_written_last() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        // All ticks have the same time, so the first entry opens.
        ticks::insert(conn, &[tick(0, 11.0, Some("1"), 7)]).await.unwrap();
        let rows = [tick(0, 10.0, Some("1"), 3), tick(0, 12.0, Some("2"), 5)];
        assert_eq!(ticks::insert(conn, &rows).await.unwrap(), 2);
        let minute = ticks::of_minute(conn, &symbol("A"), OLD_US).await.unwrap();
        assert_eq!(minute.iter().map(|row| row.price).collect::<Vec<_>>(), [10.0, 12.0]);
    }
}
