//! Writing entries of a tick stream: each trade once, with its corrections and busts.

use diesel::sql_types::{BigInt, Text};
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncConnection, AsyncPgConnection, RunQueryDsl};
use storage_core::domain::amendment::{Amendment, Change};
use storage_core::domain::decimal::Decimal;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::time::TimeRange;
use storage_core::postgres::queries::tick_versions::{self, Amendments};
use storage_core::postgres::queries::ticks;
use storage_core::postgres::queries::trades::{self, Write, Written};
use storage_core::testing::postgres::TestDatabase;

use crate::ticks::tick;
use crate::{OLD_US, revision, symbol};

const DAY_US: i64 = 86_400_000_000;

async fn write(connection: &mut AsyncPgConnection, entries: &[Write]) -> Vec<Written> {
    connection
        .transaction(async |connection| trades::write(connection, 0, entries, |_| 8).await)
        .await
        .unwrap()
}

fn trade(offset_us: i64, price: f64, id: &str, seq: u64) -> Write {
    Write::Trade(tick(offset_us, price, Some(id), seq))
}

/// Creates a correction to `price`, or a bust.
fn amendment(offset_us: i64, price: Option<f64>, id: &str, seq: u64) -> Write {
    let change = match price {
        Some(price) => Change::Correction {
            price,
            qty: Decimal::from_lots(1, 0),
            side: None,
        },
        None => Change::Bust,
    };
    Write::Amendment(Amendment {
        symbol: symbol("A"),
        ts_us: OLD_US + offset_us,
        trade_id: id.into(),
        change,
        replaces: None,
        revision: StreamId {
            ms: 1_700_000_000_000,
            seq,
        }
        .try_into()
        .unwrap(),
    })
}

#[derive(QueryableByName, Debug, PartialEq)]
struct Row {
    #[diesel(sql_type = Text)]
    trade: String,
    #[diesel(sql_type = BigInt)]
    lots: i64,
}

async fn rows(connection: &mut AsyncPgConnection) -> Vec<(String, i64)> {
    let rows: Vec<Row> =
        sql_query("SELECT trade_no || trade_key || ' ' || price AS trade, lots FROM ticks ORDER BY revision")
            .get_results(connection)
            .await
            .unwrap();
    rows.into_iter().map(|row| (row.trade, row.lots)).collect()
}

const HALF: i64 = 50_000_000;
const ONE: i64 = 100_000_000;

#[tokio::test]
async fn a_trade_in_another_resolution_is_the_same_and_at_another_time_another() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let fed = [(123_456, "701"), (123_900, "702"), (2_000_001, "703")].map(|(us, id)| trade(us, 1.0, id, 1));
        assert_eq!(write(conn, &fed).await, vec![Written::New; 3]);
        // From a file in ms, then in whole seconds.
        let file = [
            (123_000, "701"),
            (123_000, "702"),
            (2_000_000, "703"),
            (0, "701"),
            (2_000_000, "703"),
        ];
        let file: Vec<Write> = (10..)
            .zip(file)
            .map(|(seq, (us, id))| trade(us, 1.0, id, seq))
            .collect();
        assert_eq!(write(conn, &file).await, vec![Written::Unchanged; 5]);
        // Another venue, and the IDs of the next days.
        let others: Vec<Write> = (0..5)
            .map(|day| trade(day * DAY_US + 500_000, 1.0, "701", 20))
            .collect();
        assert_eq!(write(conn, &others).await, vec![Written::New; 5]);
        let again = [&fed[..], &others].concat();
        assert_eq!(write(conn, &again).await, vec![Written::Unchanged; 8]);
        assert_eq!(rows(conn).await.len(), 8);
    }
}

#[tokio::test]
async fn another_price_or_quantity_is_a_conflict_in_one_batch_or_several() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let entries = [trade(5, 1.5, "7", 1), trade(5, 1.5, "7", 2), trade(0, 2.5, "7", 3)];
        for first in [Written::New, Written::Unchanged] {
            let written = write(conn, &entries).await;
            assert_eq!(written[..2], [first, Written::Unchanged]);
            let Written::Rejected(reason) = &written[2] else {
                panic!("{written:?}")
            };
            assert!(
                reason.to_string().starts_with("conflicts with price 1.5 and qty 0.5 "),
                "{reason}"
            );
        }
        assert_eq!(rows(conn).await, [("7 1.5".to_owned(), HALF)]);
    }
}

#[tokio::test]
async fn corrections_and_busts_change_the_trade_and_all_versions_are_kept() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let feed = [
            trade(5, 1.0, "1", 1),
            trade(6, 2.0, "2", 2),
            amendment(0, Some(1.25), "1", 3),
            trade(7, 3.0, "3", 4),
            amendment(6, None, "2", 5),
        ];
        let amended = Written::Amended(OLD_US + 5);
        let busted = Written::Amended(OLD_US + 6);
        let new = Written::New;
        assert_eq!(write(conn, &feed[..2]).await, [new.clone(), new.clone()]);
        assert_eq!(write(conn, &feed[2..]).await, [amended.clone(), new, busted.clone()]);
        let expected = [("1 1.25".to_owned(), ONE), ("3 3".to_owned(), HALF)];
        assert_eq!(rows(conn).await, expected);
        // The same feed again, under other entries.
        let mut again = feed.clone();
        for (seq, entry) in (10..).zip(&mut again) {
            let id = StreamId {
                ms: 1_800_000_000_000,
                seq,
            };
            match entry {
                Write::Trade(row) => row.revision = id.try_into().unwrap(),
                Write::Amendment(amendment) => amendment.revision = id.try_into().unwrap(),
            }
        }
        for feed in [&feed[..], &again] {
            let unchanged = Written::Unchanged;
            let written = write(conn, feed).await;
            assert_eq!(
                written,
                [
                    unchanged.clone(),
                    unchanged.clone(),
                    amended.clone(),
                    unchanged,
                    busted.clone()
                ]
            );
        }
        assert_eq!(rows(conn).await, expected);

        let range = TimeRange {
            from_us: OLD_US,
            to_us: OLD_US + 60_000_000,
        };
        let versions = tick_versions::of_symbol(conn, &symbol("A"), range).await.unwrap();
        let versions = versions
            .iter()
            .map(|row| (row.trade_id(), row.version().values.map(|values| values.price)));
        let expected = [("1", Some(1.0)), ("2", Some(2.0)), ("1", Some(1.25)), ("2", None)];
        assert_eq!(
            versions.collect::<Vec<_>>(),
            expected.map(|(id, price)| (id.to_owned(), price))
        );
        let (start, until) = (StreamId::START.try_into().unwrap(), revision(i64::MAX));
        let last = tick_versions::amendments_between(conn, &symbol("A"), OLD_US, start, until)
            .await
            .unwrap();
        let last: Vec<_> = last
            .iter()
            .map(|amendment| (amendment.trade_id.as_str(), amendment.kind()))
            .collect();
        assert_eq!(last, [("1", "correction"), ("2", "bust")]);
        let amendments = tick_versions::of_minute(conn, &symbol("A"), OLD_US).await.unwrap();
        let revision = StreamId {
            ms: 1_700_000_000_000,
            seq: 5,
        }
        .try_into()
        .unwrap();
        assert_eq!(amendments, Amendments { busted: 1, revision });
        assert_eq!(ticks::of_minute(conn, &symbol("A"), OLD_US).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn an_amendment_of_an_unknown_trade_is_rejected() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        write(conn, &[trade(5, 1.0, "1", 1)]).await;
        let entries = [amendment(5, None, "2", 2), amendment(1_000_000, Some(2.0), "1", 3)];
        for written in write(conn, &entries).await {
            let Written::Rejected(reason) = written else {
                panic!("{written:?}")
            };
            assert!(reason.to_string().starts_with("the history has no trade `"), "{reason}");
        }
        assert_eq!(rows(conn).await, [("1 1".to_owned(), HALF)]);
    }
}

#[tokio::test]
async fn the_row_of_an_amended_trade_that_was_deleted_by_hand_is_written_again() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let feed = [
            trade(5, 1.0, "1", 1),
            trade(6, 2.0, "2", 2),
            amendment(5, Some(1.25), "1", 3),
            amendment(6, None, "2", 4),
        ];
        write(conn, &feed).await;
        let expected = [("1 1.25".to_owned(), ONE)];
        assert_eq!(rows(conn).await, expected);
        sql_query("DELETE FROM ticks").execute(conn).await.unwrap();
        assert_eq!(write(conn, &feed).await[..2], [Written::New, Written::Unchanged]);
        assert_eq!(rows(conn).await, expected);
    }
}
