use diesel_async::AsyncConnection;
use storage_core::domain::prices::Prices;
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::queries::candles::CandleRow;
use storage_core::postgres::queries::rollups::ALWAYS;
use storage_core::postgres::queries::symbols::{self, SetDecimalsError};
use storage_core::postgres::queries::{candles, storage};
use storage_core::testing::postgres::TestDatabase;

use crate::rollups::refresh_all;
use crate::{MINUTE_US, OLD_US, candle, symbol};

#[tokio::test]
async fn a_symbol_is_registered_once_with_eight_decimals() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let (a, b) = (symbol("A"), symbol("b/c"));
        assert_eq!(symbols::register(conn, &[&a, &b, &a]).await.unwrap(), 2);
        assert_eq!(symbols::register(conn, &[&a]).await.unwrap(), 0);
        assert_eq!(symbols::register(conn, &[]).await.unwrap(), 0);
        symbols::set_decimals(conn, &b, 2, false, "a test").await.unwrap();
        let decimals = symbols::decimals(conn, &[&a, &b, &symbol("unknown")]).await.unwrap();
        assert_eq!(
            (decimals.get(&a), decimals.get(&b), decimals.len()),
            (Some(&8), Some(&2), 2)
        );
        assert_eq!(symbols::list(conn).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn a_symbol_of_any_market_has_positive_prices_until_others_are_allowed() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let names = [
            "^GSPC",
            "M&M.NS",
            "币安人生USDT",
            "O'NEIL\\\"%_$1",
            "SPXW251219P05000000",
            &"é".repeat(32),
        ];
        let markets = names.map(symbol);
        let wanted: Vec<_> = markets.iter().collect();
        assert_eq!(symbols::register(conn, &wanted).await.unwrap(), names.len());
        assert!(symbols::with_any_price(conn, &wanted).await.unwrap().is_empty());
        assert!(symbols::set_prices(conn, &markets[2], Prices::Any).await.unwrap());
        assert!(!symbols::set_prices(conn, &markets[2], Prices::Any).await.unwrap());
        let found = symbols::with_any_price(conn, &wanted).await.unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [markets[2].clone()]);
        let rows = names.map(|name| candle(name, 0, -37.63, 5));
        candles::upsert_1m(conn, &rows).await.unwrap();
        refresh_all(conn, database.edition(), ALWAYS).await;
        for market in &markets {
            for timeframe in Timeframe::ALL {
                let found = candles::range(conn, timeframe, market, ALWAYS, 9).await.unwrap();
                assert_eq!(
                    (found.len(), found[0].open, found[0].low),
                    (1, -37.63, -38.63),
                    "{market}"
                );
            }
        }
        symbols::set_prices(conn, &markets[2], Prices::Positive).await.unwrap();
        assert!(
            symbols::list(conn)
                .await
                .unwrap()
                .iter()
                .all(|known| known.prices() == Prices::Positive)
        );
    }
}

#[tokio::test]
async fn decimals_with_rows_change_only_on_request_and_keep_the_quantities() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let a = symbol("A");
        symbols::register(conn, &[&a]).await.unwrap();
        let large = CandleRow {
            volume_lots: 150_000_000_000,
            ..candle("A", 1, 10.0, 5)
        };
        candles::upsert_1m(conn, &[candle("A", 0, 10.0, 5), large, candle("B", 0, 10.0, 5)])
            .await
            .unwrap();
        refresh_all(conn, database.edition(), ALWAYS).await;

        let refused = symbols::set_decimals(conn, &a, 4, false, "a test").await.unwrap_err();
        assert!(
            matches!(
                refused,
                SetDecimalsError::HasRows {
                    candles: 2,
                    ticks: 0,
                    from: 8,
                    ..
                }
            ),
            "{refused}"
        );
        let inexact = symbols::set_decimals(conn, &a, 0, true, "a test").await.unwrap_err();
        assert!(
            matches!(
                inexact,
                SetDecimalsError::Inexact {
                    inexact: 1,
                    to: 0,
                    least: 1,
                    ..
                }
            ),
            "{inexact}"
        );
        let too_large = symbols::set_decimals(conn, &a, 18, true, "a test").await.unwrap_err();
        assert!(
            matches!(too_large, SetDecimalsError::TooLarge { to: 18, .. }),
            "{too_large}"
        );

        let done = symbols::set_decimals(conn, &a, 1, true, "a test").await.unwrap();
        let range = TimeRange {
            from_us: OLD_US,
            to_us: OLD_US + 2 * MINUTE_US,
        };
        assert_eq!(
            (done.from, done.candles, done.ticks, done.range),
            (8, 2, 0, Some(range))
        );
        refresh_all(conn, database.edition(), range).await;
        for timeframe in [Timeframe::M1, Timeframe::D1] {
            let sum: f64 = candles::range(conn, timeframe, &a, ALWAYS, 9)
                .await
                .unwrap()
                .iter()
                .map(|row| row.volume.to_f64())
                .sum();
            assert_eq!(sum, 1501.5, "{timeframe}");
        }
        let totals = storage::totals(conn).await.unwrap();
        let day = totals.iter().find(|total| total.table_name == "candles_1d").unwrap();
        assert_eq!((day.rows, day.volume.as_deref()), (2, Some("150015015")));
    }
}

#[tokio::test]
async fn decimals_change_in_compressed_chunks_too() {
    let Some(database) = TestDatabase::start(Edition::Community).await else {
        return;
    };
    let conn = &mut database.connect().await;
    let rows: Vec<_> = (0..1_500).map(|minute| candle("A", minute, 10.0, 5)).collect();
    candles::upsert_1m(conn, &rows).await.unwrap();
    for job in storage_core::postgres::queries::policies::jobs(conn, Edition::Community)
        .await
        .unwrap()
    {
        storage_core::postgres::queries::policies::run_job(conn, &job)
            .await
            .unwrap();
    }
    let done = symbols::set_decimals(conn, &symbol("A"), 4, true, "a test")
        .await
        .unwrap();
    assert_eq!(done.candles, 1_500);
    let first = &candles::range(conn, Timeframe::M1, &symbol("A"), ALWAYS, 1)
        .await
        .unwrap()[0];
    assert_eq!(first.volume.to_string(), "1.5");
}

#[tokio::test]
async fn a_change_of_decimals_waits_for_transactions_that_count_lots() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let (mut counting, mut changing) = (database.connect().await, database.connect().await);
    let a = symbol("A");
    let change = async { symbols::set_decimals(&mut changing, &a, 2, false, "a test").await };
    let count = counting.transaction(async |conn| {
        symbols::lock_decimals(conn).await?;
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        candles::upsert_1m(conn, &[candle("A", 0, 10.0, 5)]).await
    });
    let (counted, changed) = tokio::join!(count, async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        change.await
    });
    counted.unwrap();
    assert!(
        matches!(changed, Err(SetDecimalsError::HasRows { .. })),
        "it saw the row that was written meanwhile"
    );
}
