use diesel::{QueryableByName, sql_query, sql_types::BigInt};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::{Edition, Server};
use storage_core::postgres::queries::candles::{self, CandleRow};
use storage_core::postgres::queries::policies::{self, JobKind};
use storage_core::postgres::queries::rollups::{self, ALWAYS, Scope};
use storage_core::postgres::queries::storage;
use storage_core::testing::postgres::TestDatabase;

use crate::{MINUTE_US, OLD_US, candle, symbol};

/// Refreshes all larger timeframes for the days of `range`, the smallest first.
pub(crate) async fn refresh_all(connection: &mut AsyncPgConnection, edition: Edition, range: TimeRange) {
    // Each timeframe is computed from the next smaller one, so all are refreshed for whole buckets of the largest.
    let range = if range == ALWAYS {
        range
    } else {
        range.widened_to(Timeframe::D1)
    };
    for timeframe in Timeframe::ALL {
        rollups::refresh(connection, edition, timeframe, &[range], Scope::Changed)
            .await
            .unwrap();
    }
}

/// Runs the compression policies on Community, and checks that they have compressed every table with rows.
pub(crate) async fn compress_all(connection: &mut AsyncPgConnection, edition: Edition) {
    let overdue = async |connection: &mut AsyncPgConnection| {
        let tables = storage::chunks(connection).await.unwrap();
        tables.iter().map(|table| table.overdue).sum::<i64>()
    };
    assert_eq!(overdue(connection).await > 0, edition == Edition::Community);
    let jobs = policies::jobs(connection, edition).await.unwrap();
    for job in jobs.iter().filter(|job| job.kind == JobKind::Compress) {
        policies::run_job(connection, job).await.unwrap();
    }
    for of in storage::compression(connection, edition)
        .await
        .unwrap()
        .into_iter()
        .flatten()
    {
        assert_eq!(of.compressed_chunks, of.chunks, "{of:?}");
    }
    assert_eq!(overdue(connection).await, 0);
}

/// Creates two days of two symbols, with gaps and different prices.
fn some_history() -> Vec<CandleRow> {
    ["A", "B"]
        .into_iter()
        .flat_map(|name| {
            (0..2_880)
                .filter(|minute| minute % 7 != 3 && !(200..320).contains(minute))
                .map(move |minute| {
                    let price = 100.0 + i32::try_from(minute * 37 % 101).map(f64::from).unwrap();
                    CandleRow {
                        volume_lots: i64::MAX / 1_000,
                        ..candle(name, minute, price, 1 + minute)
                    }
                })
        })
        .collect()
}

#[derive(QueryableByName)]
struct Differences {
    #[diesel(sql_type = BigInt)]
    rows: i64,
    #[diesel(sql_type = BigInt)]
    differing: i64,
}

/// Compares a larger timeframe with a plain GROUP BY over the 1-minute candles.
async fn compare(conn: &mut AsyncPgConnection, timeframe: Timeframe) -> Differences {
    sql_query(format!(
        "WITH expected AS (
             SELECT to_timestamp(floor(extract(epoch FROM time) / {seconds}) * {seconds}) AS time, symbol,
                    (array_agg(open ORDER BY time))[1] AS open, max(high) AS high, min(low) AS low,
                    (array_agg(close ORDER BY time DESC))[1] AS close, sum(volume) AS volume,
                    sum(trades)::bigint AS trades, max(revision) AS revision
             FROM candles_1m GROUP BY 1, 2),
         actual AS (SELECT time, symbol, open, high, low, close, volume, trades, revision FROM {table})
         SELECT (SELECT count(*) FROM actual) AS rows,
                (SELECT count(*) FROM (
                    (TABLE expected EXCEPT TABLE actual) UNION ALL (TABLE actual EXCEPT TABLE expected)
                ) d) AS differing",
        seconds = timeframe.seconds(),
        table = timeframe.table(),
    ))
    .get_result(conn)
    .await
    .unwrap()
}

#[tokio::test]
async fn every_larger_timeframe_equals_a_group_by_over_the_minutes() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        candles::upsert_1m(conn, &some_history()).await.unwrap();
        refresh_all(conn, database.edition(), ALWAYS).await;
        for timeframe in &Timeframe::ALL[1..] {
            let compared = compare(conn, *timeframe).await;
            assert!(
                compared.rows > 0 && compared.differing == 0,
                "{timeframe}: {} differ",
                compared.differing
            );
        }
        let made = rollups::watermark(conn, database.edition(), Timeframe::D1)
            .await
            .unwrap();
        assert_eq!(made, Some(OLD_US + 2_880 * MINUTE_US));
    }
}

#[tokio::test]
async fn a_late_change_appears_after_a_refresh_of_its_range_only() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let edition = database.edition();
        assert_eq!(rollups::watermark(conn, edition, Timeframe::H1).await.unwrap(), None);
        candles::upsert_1m(conn, &some_history()).await.unwrap();
        refresh_all(conn, edition, ALWAYS).await;
        compress_all(conn, edition).await;

        let late = CandleRow {
            high: 9_999.0,
            ..candle("A", 3, 100.0, 1 << 40)
        };
        candles::upsert_1m(conn, &[late]).await.unwrap();
        conn.batch_execute("DELETE FROM candles_1m WHERE symbol = 'B' AND time < '2019-10-11 00:05Z'")
            .await
            .unwrap();
        for timeframe in &Timeframe::ALL[1..] {
            assert!(compare(conn, *timeframe).await.differing > 0, "{timeframe}");
        }
        let touched = TimeRange {
            from_us: OLD_US + MINUTE_US,
            to_us: OLD_US + 4 * MINUTE_US,
        };
        refresh_all(conn, edition, touched).await;
        for timeframe in &Timeframe::ALL[1..] {
            assert_eq!(compare(conn, *timeframe).await.differing, 0, "{timeframe}");
        }
        let day = &candles::range(conn, Timeframe::D1, &symbol("A"), ALWAYS, 9)
            .await
            .unwrap()[0];
        assert_eq!(day.high, 9_999.0);
    }
}

#[tokio::test]
async fn policies_give_the_same_result() {
    let Some(database) = TestDatabase::start(Edition::Community).await else {
        return;
    };
    let conn = &mut database.connect().await;
    let jobs = policies::jobs(conn, Edition::Community).await.unwrap();
    let kinds = |kind| {
        jobs.iter()
            .filter(|job| job.kind == kind)
            .map(|job| job.table.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        kinds(JobKind::Refresh),
        ["candles_5m", "candles_15m", "candles_1h", "candles_4h", "candles_1d"]
    );
    assert_eq!(
        kinds(JobKind::Compress),
        [
            "candles_1m",
            "ticks",
            "signals",
            "candles_5m",
            "candles_15m",
            "candles_1h",
            "candles_4h",
            "candles_1d"
        ]
    );
    assert_eq!(
        kinds(JobKind::Retain),
        Vec::<&str>::new(),
        "no chunk is dropped without a retention"
    );
    let server = Server::detect(conn).await.unwrap().unwrap();
    assert_ne!(server.has_scheduler, server.single_session);

    let now_us = chrono::Utc::now().timestamp_micros();
    let start_us = Timeframe::H4.bucket_start_us(now_us - 86_400_000_000);
    let recent: Vec<_> = (0..240)
        .map(|minute| CandleRow {
            start_us: start_us + minute * MINUTE_US,
            ..candle("A", 0, 10.0, 5)
        })
        .collect();
    candles::upsert_1m(conn, &recent).await.unwrap();
    for job in &jobs {
        policies::run_job(conn, job).await.unwrap();
    }
    let made = rollups::watermark(conn, Edition::Community, Timeframe::H4)
        .await
        .unwrap();
    assert_eq!(made, Some(start_us + 240 * MINUTE_US));
}

#[tokio::test]
async fn content_and_size_of_the_history_are_reported() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        let edition = database.edition();
        assert!(storage::chunks(conn).await.unwrap().is_empty());
        candles::upsert_1m(conn, &some_history()).await.unwrap();
        refresh_all(conn, edition, ALWAYS).await;
        let chunks = storage::chunks(conn).await.unwrap();
        let of = |name: &str| chunks.iter().find(|chunks| chunks.table_name == name).unwrap();
        assert_eq!((of("candles_1m").chunks, of("candles_1m").compressed), (2, 0));
        assert!(of("candles_1m").size_bytes > 0 && of("candles_1d").size_bytes > 0);
        let compression = storage::compression(conn, edition).await.unwrap();
        let with_chunks = compression.map(|tables| tables.into_iter().map(|of| of.table_name).collect::<Vec<_>>());
        let candles = [
            "candles_15m",
            "candles_1d",
            "candles_1h",
            "candles_1m",
            "candles_4h",
            "candles_5m",
        ];
        assert_eq!(
            with_chunks,
            (edition == Edition::Community).then(|| candles.map(Into::into).to_vec())
        );
        let totals = storage::totals(conn).await.unwrap();
        let of = |name: &str| totals.iter().find(|total| total.table_name == name).unwrap();
        assert_eq!(of("candles_1m").rows, i64::try_from(some_history().len()).unwrap());
        assert_eq!(of("candles_1m").volume, of("candles_1d").volume);
        assert_eq!((of("dead_letters").rows, of("dead_letters").volume.clone()), (0, None));
    }
}
