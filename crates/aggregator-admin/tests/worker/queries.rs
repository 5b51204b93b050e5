//! `queries`: the queries of the project exclude chunks and use indexes.

use serde_json::Value;
use storage_core::postgres::edition::Edition;
use storage_core::testing::postgres::TestDatabase;

use crate::harness::Stores;

/// Twelve days of all minutes of three symbols, with a trade in each.
const HISTORY: &str = "
    INSERT INTO symbols (symbol) VALUES ('A'), ('B'), ('C');
    INSERT INTO candles_1m
    SELECT timestamptz '2019-10-11 00:00Z' + minute * INTERVAL '1 minute', symbol, 1, 1, 1, 1, 2, 1, minute
    FROM generate_series(0, 12 * 1440 - 1) minute, unnest(ARRAY['A', 'B', 'C']) symbol;
    INSERT INTO ticks SELECT time, symbol, 1, 2, NULL, revision, '', revision FROM candles_1m";

/// Compresses the first ten days.
const COMPRESS: &str = "
    SELECT compress_chunk(chunk) FROM show_chunks('candles_1m', older_than => timestamptz '2019-10-21 00:00Z') chunk;
    SELECT compress_chunk(chunk) FROM show_chunks('ticks', older_than => timestamptz '2019-10-21 00:00Z') chunk";

fn explanations(stores: &Stores, arguments: &[&str]) -> Vec<Value> {
    let found = stores.admin(&[&["queries", "--json"], arguments].concat());
    assert_eq!(found.code, Some(0), "{}", found.stderr);
    serde_json::from_str(&found.stdout).unwrap()
}

/// Returns the problems of a query, without that of a machine which is slow in planning at present.
fn problems(explanation: &Value) -> Vec<&str> {
    let problems = explanation["problems"].as_array().unwrap().iter();
    problems
        .map(|problem| problem.as_str().unwrap())
        .filter(|problem| !problem.starts_with("planning takes"))
        .collect()
}

#[tokio::test]
async fn queries_exclude_chunks_and_use_indexes() {
    for database in TestDatabase::start_each().await {
        let edition = database.edition();
        let stores = Stores::ready(database).await;
        stores.database.execute(HISTORY).await;
        assert_eq!(stores.admin(&["refresh", "--all"]).code, Some(0));
        if edition == Edition::Community {
            stores.database.execute(COMPRESS).await;
        }
        stores.database.execute("ANALYZE").await;

        let of_a_symbol = [
            "candles",
            "minute",
            "ticks-of-minute",
            "trades",
            "newest-tick",
            "base",
            "gaps",
            "measure",
        ];
        for explanation in explanations(&stores, &of_a_symbol) {
            assert_eq!(problems(&explanation), [""; 0], "{edition} {explanation}");
            // A day of a symbol is a third of a chunk here, so PostgreSQL may read the chunk as a whole; likewise
            // ordinary tables and those of a few chunks, which are small.
            let is_day = ["base", "gaps"].iter().any(|query| explanation["query"] == *query);
            for (table, used) in explanation["plan"]["tables"].as_object().unwrap() {
                if used["chunks"].as_u64().unwrap() < 12 {
                    continue;
                }
                let read = used["read"].as_array().unwrap().len();
                assert!(read <= 2, "{edition} {table} {explanation}");
                assert!(
                    is_day || read == 0 || used["by_index"] == true,
                    "{edition} {table} {explanation}"
                );
                assert!(
                    is_day || used["sequentially"] == false,
                    "{edition} {table} {explanation}"
                );
            }
        }
        // `closed` looks up every symbol, and `verify` reads a day of all symbols.
        for explanation in explanations(&stores, &["closed", "verify"]) {
            assert_eq!(problems(&explanation), [""; 0], "{edition} {explanation}");
        }

        let table = stores.admin(&["queries"]);
        assert_eq!(table.code, Some(0), "{}", table.stderr);
        assert!(
            table.stdout.contains("candles_1m: 1 of 12 chunks by index"),
            "{}",
            table.stdout
        );
    }
}

#[tokio::test]
async fn a_given_query_is_judged_and_can_not_write() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores.database.execute(HISTORY).await;
        let all = stores.admin(&["queries", "--sql", "SELECT max(price) FROM ticks"]);
        assert_eq!(all.code, Some(0), "{}", all.stderr);
        assert!(
            all.stdout.contains("slow: reads 12 of 12 chunks of ticks"),
            "{}",
            all.stdout
        );

        let write = stores.admin(&["queries", "--sql", "DELETE FROM ticks"]);
        assert_eq!(write.code, Some(1));
        assert!(write.stderr.contains("read-only transaction"), "{}", write.stderr);
        let two = stores.admin(&["queries", "--sql", "SELECT 1; ROLLBACK; DELETE FROM ticks"]);
        assert_eq!(two.code, Some(1));
        assert_eq!(
            stores.database.number("SELECT count(*) FROM ticks").await,
            3 * 12 * 1440
        );

        let slow = stores.admin(&["queries", "--slow"]);
        assert_eq!(slow.code, Some(1));
        assert!(
            slow.stderr.contains("CREATE EXTENSION pg_stat_statements"),
            "{}",
            slow.stderr
        );
    }
}
