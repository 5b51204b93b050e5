//! Rows and time spans of large tables, without reading them.

use diesel_async::SimpleAsyncConnection;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::plans::{Recorder, chunk_tables, explain};
use storage_core::postgres::queries::rollups::{self, ALWAYS, Scope};
use storage_core::postgres::queries::spans::{Span, newest_minute, spans};
use storage_core::postgres::queries::storage;
use storage_core::testing::postgres::TestDatabase;

use crate::rollups::compress_all;

/// Seventy days, more than are counted, with an hour of trades of two symbols each; a third one has none. The last
/// chunk of `ticks` is empty.
const HISTORY: &str = "
INSERT INTO symbols (symbol) VALUES ('A'), ('B'), ('C');
INSERT INTO candles_1m
SELECT timestamptz '2019-10-11 00:00Z' + day * INTERVAL '1 day' + minute * INTERVAL '1 minute', symbol,
       1, 1, 1, 1, 2, 1, day
FROM generate_series(0, 69) day, generate_series(7, 66) minute, unnest(ARRAY['A', 'B']) symbol;
INSERT INTO ticks
SELECT time, symbol, 1, 2, NULL, 1, '', revision FROM candles_1m;
DELETE FROM ticks WHERE time >= '2019-12-19 00:00Z';
INSERT INTO signals
SELECT timestamptz '2019-10-11 01:02Z' + week * INTERVAL '7 days', 'unknown', 's', 'x', 'buy', 1, NULL, now(), week
FROM generate_series(0, 69) week";

#[tokio::test]
async fn large_tables_are_estimated_and_their_time_spans_are_exact() {
    for database in TestDatabase::start_each().await {
        let edition = database.edition();
        let mut connection = database.connect().await;
        connection.batch_execute(HISTORY).await.unwrap();
        if edition == Edition::Apache {
            for timeframe in Timeframe::ALL {
                let refreshed = rollups::refresh(&mut connection, edition, timeframe, &[ALWAYS], Scope::Changed).await;
                refreshed.unwrap();
            }
        }
        compress_all(&mut connection, edition).await;
        connection.batch_execute("ANALYZE").await.unwrap();

        let chunks = storage::chunks(&mut connection).await.unwrap();
        let found = spans(&mut connection, edition, &chunks).await.unwrap();
        assert_eq!(found.len(), 8);
        for span in &found {
            let (database, table) = (&database, span.table);
            let edge = async |aggregate: &str| {
                let query = format!("SELECT extract(epoch FROM {aggregate}(time)) * 1000000 FROM {table}");
                database.number(&query).await
            };
            let expected = (Some(edge("min").await), Some(edge("max").await));
            assert_eq!((span.oldest_us, span.newest_us), expected, "{edition} {span:?}");
            let rows = database.number(&format!("SELECT count(*) FROM {}", span.table)).await;
            if span.is_estimate && edition == Edition::Community && span.table.starts_with("candles_") {
                continue;
            }
            assert_eq!(span.rows, rows, "{edition} {span:?}");
        }
        let is_estimate = |table: &str| {
            found.iter().any(
                |Span {
                     table: of, is_estimate, ..
                 }| *of == table && *is_estimate,
            )
        };
        assert!(
            is_estimate("ticks") && is_estimate("candles_1m") && is_estimate("signals"),
            "{found:?}"
        );
        // On Community, nothing is materialized: larger candles are computed from the minutes when they are read.
        assert_eq!(is_estimate("candles_1d"), edition == Edition::Community);
    }
}

#[tokio::test]
async fn the_newest_minute_is_found_in_the_newest_chunk() {
    for database in TestDatabase::start_each().await {
        let mut connection = database.connect().await;
        assert_eq!(newest_minute(&mut connection).await, Ok(None));
        connection.batch_execute(HISTORY).await.unwrap();
        compress_all(&mut connection, database.edition()).await;
        let recorder = Recorder::default();
        recorder.record(&mut connection);
        assert_eq!(newest_minute(&mut connection).await, Ok(Some(1_576_717_560_000_000)));
        let sent = recorder.take();
        let chunks = chunk_tables(&mut connection).await.unwrap();
        let plan = explain(&mut connection, sent.last().unwrap(), &chunks).await.unwrap();
        let minutes = &plan.tables["candles_1m"];
        assert_eq!(
            (minutes.chunks, minutes.read.len()),
            (70, 1),
            "{} {plan:?}",
            database.edition()
        );
    }
}
