use diesel::{
    QueryableByName, sql_query,
    sql_types::{BigInt, Text, Timestamptz},
};
use diesel_async::RunQueryDsl;
use storage_core::domain::time::{TimeRange, to_datetime};
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::{Fault, sqlstate};
use storage_core::postgres::queries::candles::{self, Candidate, Difference};
use storage_core::postgres::queries::policies::{self, JobKind};
use storage_core::postgres::queries::rollups::ALWAYS;
use storage_core::postgres::queries::{storage, symbols};
use storage_core::testing::postgres::TestDatabase;

use crate::{MINUTE_US, OLD_US, candle, revision, symbol};

#[tokio::test]
async fn a_candle_is_replaced_only_by_a_newer_revision() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let first = [
            candle("A", 0, 10.0, 5),
            candle("B", 0, 20.0, 5),
            candle("A", 1, 11.0, 6),
        ];
        assert_eq!(candles::upsert_1m(conn, &first).await.unwrap(), 3);
        assert_eq!(
            candles::upsert_1m(conn, &first).await.unwrap(),
            0,
            "the same again changes nothing"
        );
        let second = [candle("A", 0, 99.0, 4), candle("B", 0, 30.0, 7)];
        assert_eq!(candles::upsert_1m(conn, &second).await.unwrap(), 1);
        let open = |rows: Vec<candles::HistoryCandle>| rows.iter().map(|row| row.open).collect::<Vec<_>>();
        let all = |name: &str| (Timeframe::M1, symbol(name), ALWAYS, 10);
        let (timeframe, of, range, limit) = all("A");
        assert_eq!(
            open(candles::range(conn, timeframe, &of, range, limit).await.unwrap()),
            [10.0, 11.0]
        );
        let (timeframe, of, range, limit) = all("B");
        assert_eq!(
            open(candles::range(conn, timeframe, &of, range, limit).await.unwrap()),
            [30.0]
        );
        assert_eq!(candles::upsert_1m(conn, &[]).await.unwrap(), 0);
    }
}

#[tokio::test]
async fn a_candle_is_inserted_only_without_a_row() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let rows = |open: f64, revised: i64| [candle("A", 0, open, revised), candle("B", 2_000, open, revised)];
        assert_eq!(candles::insert_1m(conn, &rows(10.0, 5)[..1]).await.unwrap(), 1);
        assert_eq!(candles::insert_1m(conn, &rows(20.0, 6)).await.unwrap(), 1);
        assert_eq!(candles::insert_1m(conn, &[]).await.unwrap(), 0);
        let of_a = candles::range(conn, Timeframe::M1, &symbol("A"), ALWAYS, 1)
            .await
            .unwrap();
        assert_eq!((of_a[0].open, of_a[0].revision), (10.0, 5));
    }
}

#[tokio::test]
async fn without_its_primary_key_a_table_is_not_written() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        for table in ["candles_1m", "symbols"] {
            let drop = format!("ALTER TABLE {table} DROP CONSTRAINT {table}_pkey");
            sql_query(drop).execute(conn).await.unwrap();
        }
        let rows = [candle("A", 0, 10.0, 5)];
        for error in [
            candles::insert_1m(conn, &rows).await.unwrap_err(),
            candles::upsert_1m(conn, &rows).await.unwrap_err(),
            symbols::register(conn, &[&symbol("A")]).await.unwrap_err(),
        ] {
            assert_eq!(sqlstate(&error), Some("42P10"), "{error}");
            assert_eq!(Fault::of(&error), Fault::Permanent);
        }
    }
}

#[tokio::test]
async fn history_is_read_in_units_oldest_first_up_to_the_limit() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let rows: Vec<_> = (0..10).map(|minute| candle("A", minute, 10.0, 5)).collect();
        candles::upsert_1m(conn, &rows).await.unwrap();
        let range = TimeRange {
            from_us: OLD_US + MINUTE_US,
            to_us: OLD_US + 8 * MINUTE_US,
        };
        let found = candles::range(conn, Timeframe::M1, &symbol("A"), range, 3)
            .await
            .unwrap();
        let minutes: Vec<_> = found.iter().map(|row| (row.start_us - OLD_US) / MINUTE_US).collect();
        assert_eq!(minutes, [5, 6, 7]);
        assert_eq!(found[0].volume.to_string(), "1.5");
        assert_eq!((found[0].trades, found[0].revision), (3, 5));

        let sparse = TimeRange {
            from_us: OLD_US,
            to_us: OLD_US + 60 * MINUTE_US,
        };
        for (range, limit, expected) in [(range, 1, vec![7]), (sparse, 3, vec![7, 8, 9]), (ALWAYS, 2, vec![8, 9])] {
            let found = candles::range(conn, Timeframe::M1, &symbol("A"), range, limit)
                .await
                .unwrap();
            let minutes: Vec<_> = found.iter().map(|row| (row.start_us - OLD_US) / MINUTE_US).collect();
            assert_eq!(minutes, expected);
        }
    }
}

#[tokio::test]
async fn late_candles_are_written_to_compressed_chunks() {
    let Some(database) = TestDatabase::start(Edition::Community).await else {
        return;
    };
    let conn = &mut database.connect().await;
    let rows: Vec<_> = (0..2_000).map(|minute| candle("A", minute, 10.0, 5)).collect();
    candles::upsert_1m(conn, &rows).await.unwrap();
    let jobs = policies::jobs(conn, Edition::Community).await.unwrap();
    let compress = jobs
        .iter()
        .find(|job| job.kind == JobKind::Compress && job.table == "candles_1m")
        .unwrap();
    policies::run_job(conn, compress).await.unwrap();
    let compression = storage::compression(conn, Edition::Community).await.unwrap().unwrap();
    let of_candles = compression.iter().find(|c| c.table_name == "candles_1m").unwrap();
    assert_eq!((of_candles.chunks, of_candles.compressed_chunks), (2, 2));
    assert!(of_candles.after_bytes < of_candles.before_bytes / 2, "{of_candles:?}");

    let late = [
        candle("A", 0, 50.0, 9),
        candle("A", 1, 50.0, 4),
        candle("NEW", 0, 50.0, 4),
    ];
    assert_eq!(candles::upsert_1m(conn, &late).await.unwrap(), 2);
    let first = candles::range(conn, Timeframe::M1, &symbol("A"), ALWAYS, 2_000)
        .await
        .unwrap();
    assert_eq!((first.len(), first[0].open, first[1].open), (2_000, 50.0, 10.0));
}

#[tokio::test]
async fn a_candle_and_a_row_that_lack_ticks_of_each_other_diverge() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        candles::upsert_1m(conn, &[candle("A", 0, 10.0, 50)]).await.unwrap();
        let candidate = |since: i64, revised: i64, trades: i32| Candidate {
            symbol: symbol("A"),
            start_us: OLD_US,
            trades,
            since: revision(since),
            revision: revision(revised),
        };
        let candidates = [
            candidate(40, 60, 4), // contains the ticks of the row
            candidate(51, 60, 4), // begins after the row
            candidate(40, 60, 2), // counts fewer trades
            candidate(10, 50, 2), // is equal to the row
            candidate(10, 50, 4), // counts one more trade up to the same entry
            Candidate {
                symbol: symbol("B"),
                ..candidate(51, 60, 1)
            },
            candidate(10, 40, 5), // is older but counts more trades: the row lacks ticks
            candidate(10, 40, 2), // is older than the row
        ];
        let found = [
            (0, Difference::Newer),
            (1, Difference::Diverged),
            (2, Difference::Diverged),
            (4, Difference::Newer),
            (6, Difference::Diverged),
        ];
        assert_eq!(candles::compare(conn, &candidates).await.unwrap(), found);
        assert_eq!(candles::compare(conn, &[]).await.unwrap(), []);
    }
}

#[tokio::test]
async fn a_repair_replaces_a_candle_and_keeps_the_higher_revision() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        candles::upsert_1m(conn, &[candle("A", 0, 10.0, 50)]).await.unwrap();
        let repaired = candles::CandleRow {
            trades: 4,
            ..candle("A", 0, 30.0, 40)
        };
        assert_eq!(candles::replace_1m(conn, &repaired).await.unwrap(), 1);
        let kept = candles::CandleRow {
            revision: revision(50),
            ..repaired
        };
        assert_eq!(candles::minute(conn, &symbol("A"), OLD_US).await.unwrap(), Some(kept));
        assert_eq!(candles::minute(conn, &symbol("B"), OLD_US).await.unwrap(), None);
    }
}

#[derive(Debug, QueryableByName)]
struct InUnits {
    #[diesel(sql_type = Text)]
    volume: String,
    #[diesel(sql_type = BigInt)]
    trades: i64,
}

#[tokio::test]
async fn views_return_volumes_in_units() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        candles::upsert_1m(conn, &[candle("A", 0, 10.0, 5)]).await.unwrap();
        let row: InUnits = sql_query(
            "SELECT volume::text, trades FROM candles_in_units WHERE timeframe = '1m' AND symbol = 'A' AND time = $1
             AND volume = volume_units('A', 150000000)",
        )
        .bind::<Timestamptz, _>(to_datetime(OLD_US))
        .get_result(conn)
        .await
        .unwrap();
        assert_eq!((row.volume.as_str(), row.trades), ("1.5", 3));
    }
}

#[tokio::test]
async fn the_same_minute_twice_in_a_batch_is_a_permanent_error() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let error = candles::upsert_1m(conn, &[candle("A", 0, 10.0, 5), candle("A", 0, 11.0, 6)])
            .await
            .unwrap_err();
        assert_eq!((sqlstate(&error), Fault::of(&error)), (Some("21000"), Fault::Permanent));
    }
}
