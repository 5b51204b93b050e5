//! Backup and restore of the database, on each edition of TimescaleDB.

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use storage_core::postgres::edition::Edition;
use storage_core::postgres::queries::storage::{Total, totals};
use storage_core::testing::postgres::TestDatabase;

use crate::support::{Runner, flip_a_byte};

/// Writes two days of candles and ticks; on the Community edition also refreshes larger timeframes and compresses
/// chunks.
async fn fill(connection: &mut AsyncPgConnection, edition: Edition) {
    connection
        .batch_execute(
            "INSERT INTO symbols (symbol, volume_decimals) VALUES ('A', 3);
             INSERT INTO candles_1m
                 SELECT t, 'A', 1, 2, 0.1, 1.5, 9000000000000000 + extract(epoch FROM t)::bigint % 977, 3,
                     extract(epoch FROM t)::bigint
                 FROM generate_series('2019-10-10'::timestamptz, '2019-10-11 23:59', '1 minute') t;
             INSERT INTO ticks
                 SELECT t, 'A', 1.25, 5, 'buy', 0, 'id of ' || t, extract(epoch FROM t)::bigint
                 FROM generate_series('2019-10-10'::timestamptz, '2019-10-10 12:00', '1 minute') t;
             INSERT INTO dead_letters (stream, entry_id, reason, fields)
                 VALUES ('ticks:0', '1-1', 'price', '{\"price\": \"\u{1F4A5}\"}')",
        )
        .await
        .unwrap();
    if edition == Edition::Community {
        for statement in [
            "CALL refresh_continuous_aggregate('candles_5m', NULL, NULL)",
            "CALL refresh_continuous_aggregate('candles_15m', NULL, NULL)",
            "SELECT compress_chunk(chunk) FROM show_chunks('candles_1m') chunk LIMIT 1",
        ] {
            connection.batch_execute(statement).await.unwrap();
        }
    }
}

async fn totals_of(database: &TestDatabase) -> Vec<Total> {
    totals(&mut database.connect().await).await.unwrap()
}

#[tokio::test]
async fn the_database_comes_back_to_the_last_lot() {
    for from in TestDatabase::start_each().await {
        let edition = from.edition();
        fill(&mut from.connect().await, edition).await;
        let runner = Runner::new().database(from.login("backup-runner").url.expose());
        let printed = runner.done(&["backup", "postgres"]);
        assert!(
            printed.contains(&format!("2880 candles, 721 ticks ({edition})")),
            "{printed}"
        );
        assert!(runner.done(&["verify"]).contains("whole"));

        let refusal = runner.failed(&["restore", "postgres", "latest"]);
        assert!(refusal.contains("is not empty: it holds public."), "{refusal}");

        let Some(to) = TestDatabase::start_empty(edition).await else {
            continue;
        };
        let runner = runner.database(to.url());
        let printed = runner.done(&["restore", "postgres", "latest"]);
        assert!(printed.contains("restored the database"), "{printed}");
        assert_eq!(totals_of(&to).await, totals_of(&from).await, "{edition}");
        // It accepts writes again.
        to.connect()
            .await
            .batch_execute("INSERT INTO candles_1m VALUES ('2019-10-12', 'A', 1, 1, 1, 1, 1, 1, 1)")
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn another_edition_is_refused_by_name() {
    let (Some(from), Some(to)) = (
        TestDatabase::start(Edition::Community).await,
        TestDatabase::start_empty(Edition::Apache).await,
    ) else {
        return;
    };
    let runner = Runner::new().database(from.login("backup-runner").url.expose());
    runner.done(&["backup", "postgres"]);
    let refusal = runner.database(to.url()).failed(&["restore", "postgres", "latest"]);
    assert!(refusal.contains("the backup was made with TimescaleDB"), "{refusal}");
}

#[tokio::test]
async fn a_flipped_byte_is_found() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let runner = Runner::new().database(database.login("backup-runner").url.expose());
    runner.done(&["backup", "postgres"]);
    flip_a_byte(&runner.only("postgres").join("database.dump"));
    let complaint = runner.failed(&["verify"]);
    assert!(
        complaint.contains("postgres/") && complaint.contains("database.dump was changed"),
        "{complaint}"
    );
}

#[tokio::test]
async fn a_base_backup_of_the_embedded_server_is_an_error() {
    let Some(database) = TestDatabase::start(Edition::Community).await else {
        return;
    };
    let complaint = Runner::new().database(database.url()).failed(&["backup", "base"]);
    assert!(complaint.contains("embedded server"), "{complaint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_is_of_one_moment_while_rows_are_written() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let mut connection = database.connect().await;
    let writer = tokio::spawn(async move {
        for n in 0.. {
            let row = format!("INSERT INTO symbols (symbol) VALUES ('S{n}')");
            if connection.batch_execute(&row).await.is_err() {
                break;
            }
        }
    });
    let runner = Runner::new().database(database.login("backup-runner").url.expose());
    runner.done(&["backup", "postgres"]);
    let Some(to) = TestDatabase::start_empty(Edition::Apache).await else {
        return;
    };
    writer.abort();
    runner.database(to.url()).done(&["restore", "postgres", "latest"]);
}
