//! A database of TimescaleDB's Apache edition on a server that has become one of the Community edition.

use storage_core::postgres::edition::Edition;
use storage_core::testing::postgres::TestDatabase;

use crate::harness::Stores;

const LARGER: [&str; 5] = ["candles_5m", "candles_15m", "candles_1h", "candles_4h", "candles_1d"];

/// Removes what only the Community edition has.
const REMOVE: &str = "
    SELECT remove_compression_policy(name) FROM unnest('{candles_1m,ticks,signals}'::regclass[]) name;
    ALTER TABLE candles_1m SET (timescaledb.compress = false);
    ALTER TABLE ticks SET (timescaledb.compress = false);
    ALTER TABLE signals SET (timescaledb.compress = false);
    DROP VIEW candles_in_units;
    DROP VIEW ticks_in_units;
    DROP MATERIALIZED VIEW candles_1d;
    DROP MATERIALIZED VIEW candles_4h;
    DROP MATERIALIZED VIEW candles_1h;
    DROP MATERIALIZED VIEW candles_15m;
    DROP MATERIALIZED VIEW candles_5m;
    DELETE FROM __diesel_schema_migrations WHERE version IN ('20261123000700', '20261123000800', '20261128001200');
    INSERT INTO __diesel_schema_migrations (version) VALUES ('20261123000710')";
const APACHE: &str = include_str!("../../../../migrations/apache/2026-11-23-000710_rollups/up.sql");
const VIEWS: &str = include_str!("../../../../migrations/common/2026-11-23-000900_views/up.sql");

/// Gives what was created to the role that runs `migrate`, if the server has roles.
const OWN: &str = r#"
    DO $$ DECLARE relation regclass; BEGIN
        FOR relation IN SELECT pg_class.oid FROM pg_class JOIN pg_roles ON rolname = 'aggregator-admin'
            WHERE relname ~ '^(candles|ticks_in_units|rollup_progress)' AND relkind IN ('r', 'v')
        LOOP
            EXECUTE format('ALTER TABLE %s OWNER TO "aggregator-admin"', relation);
        END LOOP;
    END $$"#;

/// Twelve days.
const HISTORY: &str = "
    INSERT INTO symbols (symbol) VALUES ('XRPETH');
    INSERT INTO candles_1m
    SELECT timestamptz '2019-10-11 00:00Z' + minute * INTERVAL '7 minutes', 'XRPETH', minute, minute + 2, minute - 1,
           minute + 1, 3, 2, minute
    FROM generate_series(0, 2400) minute;";

/// The last five days.
const RECENT: &str = "
    INSERT INTO symbols (symbol) VALUES ('XRPETH');
    INSERT INTO candles_1m
    SELECT date_trunc('minute', now()) - minute * INTERVAL '7 minutes', 'XRPETH', 5, 5, 5, 5, 3, 1, 1000 - minute
    FROM generate_series(0, 1000) minute;
    INSERT INTO ticks SELECT time, symbol, open, volume, NULL, revision, '', revision FROM candles_1m";

/// Returns the statements by which retention drops the candles of `table` before `day`.
fn dropped(table: &str, day: &str) -> String {
    format!(
        "SELECT drop_chunks('{table}', older_than => timestamptz '{day}');
         INSERT INTO complete_since VALUES ('{table}', '{day}');"
    )
}

fn rollup(target: &str, source: &str, length: &str) -> String {
    format!(
        "INSERT INTO {target}
         SELECT time_bucket(INTERVAL '{length}', time), symbol, first(open, time), max(high), min(low),
                last(close, time), sum(volume), sum(trades)::bigint, max(revision)
         FROM {source} GROUP BY 1, 2"
    )
}

async fn contents(stores: &Stores) -> Vec<String> {
    let mut contents = Vec::new();
    for table in LARGER.into_iter().chain(["candles_in_units"]) {
        let rows = "concat_ws(' ', count(*), md5(string_agg(candle::text, ';' ORDER BY candle::text)))";
        contents.push(
            stores
                .database
                .text(&format!("SELECT {rows} FROM {table} candle"))
                .await,
        );
    }
    contents
}

#[tokio::test]
async fn a_database_of_the_apache_edition_moves_without_losing_a_candle() {
    moves(HISTORY, &dropped("candles_1m", "2019-10-15 00:00Z")).await;
}

#[tokio::test]
async fn larger_candles_move_when_retention_has_dropped_all_minutes() {
    moves(HISTORY, &dropped("candles_1m", "2019-10-24 00:00Z")).await;
}

#[tokio::test]
async fn larger_candles_move_when_retention_has_dropped_all_minutes_and_the_next_timeframe() {
    let after = "2019-10-31 00:00Z";
    moves(HISTORY, &(dropped("candles_1m", after) + &dropped("candles_5m", after))).await;
}

#[tokio::test]
async fn open_candles_follow_new_minutes_after_the_move() {
    let Some(stores) = moves(RECENT, "").await else { return };
    let next = "INSERT INTO candles_1m
        VALUES (date_trunc('minute', now()) + INTERVAL '1 minute', 'XRPETH', 1, 1, 1, 1, 1, 1, 2000)";
    stores.database.execute(next).await;
    for table in LARGER {
        let newest = format!("SELECT revision FROM {table} ORDER BY time DESC LIMIT 1");
        assert_eq!(stores.database.number(&newest).await, 2_000, "{table}");
    }
}

/// Tests that the move keeps every candle of `history` that is left after `retention`.
async fn moves(history: &str, retention: &str) -> Option<Stores> {
    let database = TestDatabase::start(Edition::Community).await?;
    let stores = Stores::ready(database).await;
    for statements in [REMOVE, APACHE, VIEWS, OWN, history] {
        stores.database.execute(statements).await;
    }
    let lengths = ["5 minutes", "15 minutes", "1 hour", "4 hours", "1 day"];
    for (at, length) in lengths.into_iter().enumerate() {
        let source = at.checked_sub(1).map_or("candles_1m", |smaller| LARGER[smaller]);
        stores.database.execute(&rollup(LARGER[at], source, length)).await;
    }
    stores.database.execute(retention).await;
    let before = contents(&stores).await;

    let refused = stores.admin(&["verify"]);
    assert_eq!(refused.code, Some(64), "{}", refused.stderr);
    assert!(
        refused
            .stderr
            .contains("run `aggregator-admin migrate`, which moves the database"),
        "{}",
        refused.stderr
    );

    let moved = stores.admin(&["migrate"]);
    assert_eq!(moved.code, Some(0), "{}{}", moved.stdout, moved.stderr);
    assert!(
        moved.stdout.contains("1d candles: moved to a continuous aggregate"),
        "{}",
        moved.stdout
    );
    assert_eq!(contents(&stores).await, before);
    let aggregates = "SELECT count(*) FROM timescaledb_information.continuous_aggregates";
    assert_eq!(stores.database.number(aggregates).await, 5);
    let verified = stores.admin(&["verify"]);
    assert_eq!(verified.code, Some(0), "{}{}", verified.stdout, verified.stderr);
    let again = stores.admin(&["migrate"]);
    assert!(
        again.code == Some(0) && again.stdout.contains("nothing to do"),
        "{}",
        again.stdout
    );
    Some(stores)
}
