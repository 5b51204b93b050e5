//! Late ticks after the source of larger candles was dropped, and the refresh of all buckets.

use diesel::{QueryableByName, sql_query, sql_types::BigInt, sql_types::Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use storage_core::domain::time::TimeRange;
use storage_core::domain::timeframe::Timeframe;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::queries::rollups::{self, ALWAYS, Scope};
use storage_core::postgres::queries::{completeness, policies, symbols, verify};
use storage_core::testing::postgres::TestDatabase;

use crate::rollups::compress_all;
use crate::{MINUTE_US, OLD_US, symbol};

const DAY_US: i64 = 1_440 * MINUTE_US;

/// Thirty days with three trades of A and two of B each.
const HISTORY: &str = "
INSERT INTO symbols (symbol) VALUES ('A'), ('B');
INSERT INTO ticks (time, symbol, price, lots, trade_no, trade_key, revision)
SELECT timestamptz '2019-10-11 00:00Z' + day * INTERVAL '1 day' + trade * INTERVAL '7 hours 3 minutes',
       symbol, 10 + day + trade, 2,
       day * 10 + trade, '', day * 100 + trade
FROM generate_series(0, 29) day, generate_series(1, 3) trade, unnest(ARRAY['A', 'B']) symbol
WHERE symbol = 'A' OR trade < 3
ORDER BY 1;
INSERT INTO candles_1m
SELECT date_trunc('minute', time), symbol,
       min(price), max(price), min(price), max(price), sum(lots), count(*), max(revision)
FROM ticks GROUP BY 1, 2 ORDER BY 1";

/// A trade of A on the tenth day, in the minute of an older one, and what warm-syncer and a repair leave of it in
/// `candles_1m`.
const LATE: &str = "
INSERT INTO ticks VALUES ('2019-10-21 07:03:30Z', 'A', 99, 1, NULL, 4711, '', 1000000);
INSERT INTO candles_1m
SELECT date_trunc('minute', time), symbol,
       min(price), max(price), min(price), max(price), sum(lots), count(*), max(revision)
FROM ticks WHERE symbol = 'A' AND time >= '2019-10-21 07:03Z' AND time < '2019-10-21 07:04Z' GROUP BY 1, 2";

fn day(number: i64) -> TimeRange {
    TimeRange {
        from_us: OLD_US + number * DAY_US,
        to_us: OLD_US + (number + 1) * DAY_US,
    }
}

/// Returns a connection to the refreshed history, which is compressed on Community.
async fn history(database: &TestDatabase) -> AsyncPgConnection {
    let mut conn = database.connect().await;
    conn.batch_execute(HISTORY).await.unwrap();
    refresh(&mut conn, database.edition(), ALWAYS, Scope::Changed).await;
    compress_all(&mut conn, database.edition()).await;
    conn
}

/// Refreshes in the same way as aggregator-admin.
async fn refresh(conn: &mut AsyncPgConnection, edition: Edition, range: TimeRange, scope: Scope) {
    completeness::update_borders(conn, edition).await.unwrap();
    for timeframe in Timeframe::ALL {
        rollups::refresh(conn, edition, timeframe, &[range], scope)
            .await
            .unwrap();
    }
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

#[derive(QueryableByName)]
struct Line {
    #[diesel(sql_type = Text)]
    line: String,
}

/// Counts candles of `timeframe` that differ from the grouping of `ticks`, or are missing.
async fn different_from_ticks(conn: &mut AsyncPgConnection, timeframe: Timeframe) -> i64 {
    let Count { count } = sql_query(format!(
        "WITH expected AS (
             SELECT to_timestamp(floor(extract(epoch FROM time) / {seconds}) * {seconds}) AS time, symbol,
                    (array_agg(price ORDER BY time))[1] AS open, max(price) AS high, min(price) AS low,
                    (array_agg(price ORDER BY time DESC))[1] AS close, sum(lots)::numeric AS volume, count(*) AS trades,
                    max(revision) AS revision
             FROM ticks GROUP BY 1, 2),
         actual AS (SELECT time, symbol, open, high, low, close, volume, trades, revision FROM {table})
         SELECT count(*)
         FROM ((TABLE expected EXCEPT ALL TABLE actual) UNION ALL (TABLE actual EXCEPT ALL TABLE expected)) d",
        seconds = timeframe.seconds(),
        table = timeframe.table(),
    ))
    .get_result(conn)
    .await
    .unwrap();
    count
}

/// Returns days, volume and trades of a symbol in each larger timeframe.
async fn totals(conn: &mut AsyncPgConnection, of: &str) -> Vec<String> {
    let mut found = Vec::new();
    for timeframe in &Timeframe::ALL[1..] {
        let Line { line } = sql_query(format!(
            "SELECT count(DISTINCT time::date) || ' days, volume ' || sum(volume) || ', trades ' || sum(trades) AS line
             FROM {} WHERE symbol = $1",
            timeframe.table()
        ))
        .bind::<Text, _>(of)
        .get_result(conn)
        .await
        .unwrap();
        found.push(line);
    }
    found
}

/// Returns the candle of A's late day.
async fn late_day(conn: &mut AsyncPgConnection) -> String {
    let Line { line } = sql_query(
        "SELECT concat_ws(' ', open, high, low, close, volume, trades) AS line FROM candles_1d
         WHERE symbol = 'A' AND time = '2019-10-21'",
    )
    .get_result(conn)
    .await
    .unwrap();
    line
}

#[tokio::test]
async fn a_late_tick_is_joined_into_larger_candles_whose_minutes_were_dropped() {
    for database in TestDatabase::start_each().await {
        let edition = database.edition();
        let conn = &mut history(&database).await;
        conn.batch_execute("SELECT drop_chunks('candles_1m', '2019-11-02'::timestamptz)")
            .await
            .unwrap();
        conn.batch_execute(LATE).await.unwrap();
        let minute = TimeRange {
            from_us: OLD_US + 10 * DAY_US + 423 * MINUTE_US,
            to_us: OLD_US + 10 * DAY_US + 424 * MINUTE_US,
        };
        for (range, scope) in [(minute, Scope::Changed), (minute, Scope::Changed), (ALWAYS, Scope::All)] {
            refresh(conn, edition, range, scope).await;
            for timeframe in &Timeframe::ALL[1..] {
                assert_eq!(
                    different_from_ticks(conn, *timeframe).await,
                    0,
                    "{edition} {timeframe} {range:?}"
                );
            }
        }
        assert_eq!(
            totals(conn, "A").await,
            vec!["30 days, volume 181, trades 91"; 5],
            "{edition}"
        );
        assert_eq!(late_day(conn).await, "21 99 21 23 7 4");
        let since_us = completeness::since(conn, "candles_1m").await.unwrap();
        assert_eq!(since_us, Some(day(22).from_us), "a late chunk does not move the border");
    }
}

#[tokio::test]
async fn a_late_tick_is_joined_although_older_ticks_were_dropped_too() {
    for database in TestDatabase::start_each().await {
        let edition = database.edition();
        let conn = &mut history(&database).await;
        conn.batch_execute(
            "SELECT drop_chunks('candles_1m', '2019-11-02'::timestamptz);
             SELECT drop_chunks('ticks', '2019-11-02'::timestamptz)",
        )
        .await
        .unwrap();
        conn.batch_execute(LATE).await.unwrap();
        for scope in [Scope::Changed, Scope::Changed, Scope::All] {
            refresh(conn, edition, ALWAYS, scope).await;
            assert_eq!(
                totals(conn, "A").await,
                vec!["30 days, volume 181, trades 91"; 5],
                "{edition}"
            );
            assert_eq!(
                totals(conn, "B").await,
                vec!["30 days, volume 120, trades 60"; 5],
                "{edition}"
            );
        }
        assert_eq!(late_day(conn).await, "21 99 21 23 7 4");

        conn.batch_execute(
            "INSERT INTO ticks VALUES ('2019-10-25 12:00Z', 'NEW', 5, 3, NULL, 1, '', 1000001);
             INSERT INTO symbols (symbol) VALUES ('NEW')",
        )
        .await
        .unwrap();
        refresh(conn, edition, day(14), Scope::Changed).await;
        assert_eq!(
            totals(conn, "NEW").await,
            vec!["1 days, volume 3, trades 1"; 5],
            "{edition}"
        );
    }
}

#[tokio::test]
async fn a_retention_moves_the_border_before_it_drops_rows_and_the_border_never_moves_back() {
    for database in TestDatabase::start_each().await {
        let conn = &mut history(&database).await;
        assert_eq!(completeness::since(conn, "candles_1m").await.unwrap(), None);
        let now_us = chrono::Utc::now().timestamp_micros();
        let kept = |from_us: i64| std::time::Duration::from_micros(u64::try_from(now_us - from_us).unwrap());
        let since = async |conn: &mut AsyncPgConnection| completeness::since(conn, "candles_1m").await.unwrap();
        completeness::advance_to_retention(conn, database.edition(), "candles_1m", kept(day(3).from_us + MINUTE_US))
            .await
            .unwrap();
        assert_eq!(
            since(conn).await,
            Some(day(3).from_us),
            "the chunk that stays is complete"
        );
        completeness::advance_to_retention(conn, database.edition(), "candles_1m", kept(day(1).from_us))
            .await
            .unwrap();
        completeness::advance(conn, "candles_1m", day(2).from_us).await.unwrap();
        assert_eq!(since(conn).await, Some(day(3).from_us));
        if database.edition() == Edition::Community {
            let age = kept(day(5).from_us + MINUTE_US);
            policies::add_retention(conn, "candles_1m", age, age).await.unwrap();
            completeness::update_borders(conn, Edition::Community).await.unwrap();
            assert_eq!(since(conn).await, Some(day(5).from_us), "before the job has run");
        }
        assert_eq!(completeness::since(conn, "ticks").await.unwrap(), None);
    }
}

#[tokio::test]
async fn candles_whose_minutes_were_dropped_are_rescaled() {
    for database in TestDatabase::start_each().await {
        let conn = &mut history(&database).await;
        conn.batch_execute("SELECT drop_chunks('candles_1m', '2019-11-02'::timestamptz)")
            .await
            .unwrap();
        let finer = symbols::set_decimals(conn, &symbol("A"), 9, true, "a test")
            .await
            .unwrap();
        refresh(conn, database.edition(), finer.range.unwrap(), Scope::Changed).await;
        assert_eq!(totals(conn, "A").await, vec!["30 days, volume 1800, trades 90"; 5]);
        symbols::set_decimals(conn, &symbol("A"), 8, true, "a test")
            .await
            .unwrap();
        refresh(conn, database.edition(), finer.range.unwrap(), Scope::Changed).await;
        assert_eq!(totals(conn, "A").await, vec!["30 days, volume 180, trades 90"; 5]);
        conn.batch_execute(LATE).await.unwrap();
        refresh(conn, database.edition(), day(10), Scope::Changed).await;
        assert_eq!(totals(conn, "A").await, vec!["30 days, volume 181, trades 91"; 5]);
        assert!(
            symbols::set_decimals(conn, &symbol("A"), 7, true, "a test")
                .await
                .is_err(),
            "volume 7 is not a whole lot"
        );
    }
}

/// Returns the hypertable of `timeframe`.
async fn stored(conn: &mut AsyncPgConnection, edition: Edition, timeframe: Timeframe) -> String {
    if edition == Edition::Apache {
        return timeframe.table().to_owned();
    }
    let Line { line } = sql_query(
        "SELECT materialization_hypertable_schema || '.' || materialization_hypertable_name AS line
         FROM timescaledb_information.continuous_aggregates WHERE view_name = $1",
    )
    .bind::<Text, _>(timeframe.table())
    .get_result(conn)
    .await
    .unwrap();
    line
}

#[tokio::test]
async fn a_value_changed_by_hand_is_corrected_in_every_timeframe() {
    for database in TestDatabase::start_each().await {
        let edition = database.edition();
        for range in [ALWAYS, day(7)] {
            let conn = &mut database.connect().await;
            if range == ALWAYS {
                conn.batch_execute(HISTORY).await.unwrap();
                refresh(conn, edition, ALWAYS, Scope::Changed).await;
                compress_all(conn, edition).await;
            }
            for timeframe in &Timeframe::ALL[1..] {
                let table = stored(conn, edition, *timeframe).await;
                conn.batch_execute(&format!(
                    "UPDATE {table} SET high = 999, volume = 999, trades = 999
                     WHERE time >= '2019-10-18' AND time < '2019-10-19' AND symbol = 'A';
                     DELETE FROM {table} WHERE time >= '2019-10-18' AND time < '2019-10-19' AND symbol = 'B'"
                ))
                .await
                .unwrap();
            }
            refresh(conn, edition, range, Scope::All).await;
            for timeframe in &Timeframe::ALL[1..] {
                assert_eq!(
                    different_from_ticks(conn, *timeframe).await,
                    0,
                    "{edition} {timeframe} {range:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn duplicate_rows_of_overlapping_refreshes_are_found_and_removed() {
    let Some(database) = TestDatabase::start(Edition::Community).await else {
        return;
    };
    let conn = &mut history(&database).await;
    for timeframe in &Timeframe::ALL[1..] {
        let table = stored(conn, Edition::Community, *timeframe).await;
        conn.batch_execute(&format!(
            "INSERT INTO {table} SELECT * FROM {table} WHERE time >= '2019-10-18' AND time < '2019-10-19'"
        ))
        .await
        .unwrap();
        let found = verify::compare(conn, *timeframe, None, day(7)).await.unwrap().differing;
        assert!(
            found.len() >= 2
                && found
                    .iter()
                    .all(|different| different.found.as_ref().unwrap().ends_with(" in 2 rows")),
            "{found:?}"
        );
    }
    refresh(conn, Edition::Community, ALWAYS, Scope::All).await;
    for timeframe in &Timeframe::ALL[1..] {
        assert_eq!(
            verify::compare(conn, *timeframe, None, day(7)).await.unwrap().differing,
            []
        );
        assert_eq!(different_from_ticks(conn, *timeframe).await, 0, "{timeframe}");
    }
}
