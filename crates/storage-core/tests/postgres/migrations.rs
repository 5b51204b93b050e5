use std::collections::BTreeMap;

use diesel::{QueryableByName, sql_query, sql_types::BigInt};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use storage_core::postgres::edition::Edition;
use storage_core::postgres::migrations::{self, Goal, MigrationError};
use storage_core::postgres::queries::candles;
use storage_core::postgres::queries::rollups::ALWAYS;
use storage_core::postgres::queries::storage::{self, Total};
use storage_core::testing::postgres::TestDatabase;

use crate::candle;
use crate::rollups::{compress_all, refresh_all};

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    n: i64,
}

/// Lists the objects of the schema, except diesel's own and those of the extension.
const REMAINING_OBJECTS: &str = "
SELECT (SELECT count(*) FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relname NOT LIKE '\\_\\_diesel%'
            AND NOT EXISTS (SELECT FROM pg_depend WHERE objid = c.oid AND deptype = 'e'))
     + (SELECT count(*) FROM pg_proc p WHERE pronamespace = 'public'::regnamespace
            AND proname IN ('lots_to_units', 'volume_units', 'diesel_manage_updated_at', 'diesel_set_updated_at')
            AND proname NOT LIKE 'diesel%') AS n";

async fn up_down_and_up_again(edition: Edition) {
    let Some(database) = TestDatabase::start_empty(edition).await else {
        return;
    };
    let up = migrations::run(database.connect().await).await.unwrap();
    assert!(up.len() >= 8, "{up:?}");
    let server = migrations::ensure_current(&mut database.connect().await).await.unwrap();
    assert_eq!(server.edition, edition);
    assert_eq!(
        migrations::run(database.connect().await).await.unwrap(),
        Vec::<String>::new()
    );

    let mut down = migrations::revert_all(database.connect().await).await.unwrap();
    down.reverse();
    assert_eq!(down, up);
    let left: Count = sql_query(REMAINING_OBJECTS)
        .get_result(&mut database.connect().await)
        .await
        .unwrap();
    assert_eq!(left.n, 0);

    assert_eq!(migrations::run(database.connect().await).await.unwrap(), up);
}

#[tokio::test]
async fn migrations_go_up_down_and_up_again_on_community() {
    up_down_and_up_again(Edition::Community).await;
}

#[tokio::test]
async fn migrations_go_up_down_and_up_again_on_apache() {
    up_down_and_up_again(Edition::Apache).await;
}

/// Returns the totals of every table by name.
async fn totals(connection: &mut AsyncPgConnection) -> BTreeMap<String, Total> {
    let totals = storage::totals(connection).await.unwrap();
    totals
        .into_iter()
        .map(|total| (total.table_name.clone(), total))
        .collect()
}

#[tokio::test]
async fn compression_of_larger_timeframes_is_added_to_a_history_and_removed_from_it() {
    const UP: &str = include_str!("../../../../migrations/community/2026-11-28-001200_compress_rollups/up.sql");
    const DOWN: &str = include_str!("../../../../migrations/community/2026-11-28-001200_compress_rollups/down.sql");
    let Some(database) = TestDatabase::start(Edition::Community).await else {
        return;
    };
    let conn = &mut database.connect().await;
    conn.batch_execute(DOWN).await.unwrap();
    let rows: Vec<_> = (0..2_000).map(|minute| candle("A", minute, 10.0, 5)).collect();
    candles::upsert_1m(conn, &rows).await.unwrap();
    refresh_all(conn, Edition::Community, ALWAYS).await;
    let before = totals(conn).await;
    for _ in 0..2 {
        conn.batch_execute(UP).await.unwrap();
        compress_all(conn, Edition::Community).await;
        assert_eq!(totals(conn).await, before);
        conn.batch_execute(DOWN).await.unwrap();
        assert_eq!(totals(conn).await, before);
    }
    let compressed = storage::compression(conn, Edition::Community).await.unwrap().unwrap();
    let tables: Vec<_> = compressed.iter().map(|of| of.table_name.as_str()).collect();
    assert_eq!(tables, ["candles_1m"]);
}

#[tokio::test]
async fn two_concurrent_migrations_run_each_migration_once() {
    for edition in [Edition::Community, Edition::Apache] {
        let Some(database) = TestDatabase::start_empty(edition).await else {
            continue;
        };
        let (one, two) = (database.connect().await, database.connect().await);
        let (one, two) = tokio::join!(migrations::run(one), migrations::run(two));
        let (one, two) = (one.unwrap(), two.unwrap());
        assert!(one.is_empty() != two.is_empty(), "{edition}: {one:?} {two:?}");
    }
}

#[tokio::test]
async fn a_schema_that_is_behind_is_refused_with_the_remedy() {
    for edition in [Edition::Community, Edition::Apache] {
        let Some(database) = TestDatabase::start_empty(edition).await else {
            continue;
        };
        let error = migrations::ensure_current(&mut database.connect().await)
            .await
            .unwrap_err();
        assert!(matches!(error, MigrationError::Behind { .. }), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("migrations behind; run `aggregator-admin migrate`"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_schema_of_another_version_is_refused() {
    for database in TestDatabase::start_each().await {
        let mut connection = database.connect().await;
        connection
            .batch_execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('29990101000000')")
            .await
            .unwrap();
        let error = migrations::ensure_current(&mut connection).await.unwrap_err();
        assert!(
            matches!(&error, MigrationError::Unknown { version, .. } if version == "29990101000000"),
            "{error}"
        );
        assert!(error.to_string().contains("newer version"), "{error}");
    }
}

#[tokio::test]
async fn a_failed_migration_changes_nothing() {
    for edition in [Edition::Community, Edition::Apache] {
        let Some(database) = TestDatabase::start_empty(edition).await else {
            continue;
        };
        let mut connection = database.connect().await;
        // The last migration fails because of this object.
        connection
            .batch_execute("CREATE TABLE ticks_in_units (x int)")
            .await
            .unwrap();
        let error = migrations::run(database.connect().await).await.unwrap_err();
        assert!(error.to_string().contains("nothing was changed"), "{error}");
        connection.batch_execute("DROP TABLE ticks_in_units").await.unwrap();
        let left: Count = sql_query(REMAINING_OBJECTS).get_result(&mut connection).await.unwrap();
        assert_eq!(left.n, 0, "{edition}");
        migrations::run(database.connect().await).await.unwrap();
    }
}

/// Last migration of each release.
const RELEASED: [&str; 2] = ["2026-11-23-000900_views", "2026-11-28-001100_database_identity"];

/// Every released version with a candle reaches the schema of a new database and keeps the candle.
#[tokio::test]
async fn every_released_version_reaches_the_same_schema() {
    for new in TestDatabase::start_each().await {
        let fingerprint = "SELECT string_agg(fingerprint::text, E'\\n' ORDER BY kind, object)
                           FROM schema_fingerprint fingerprint";
        let expected = new.text(fingerprint).await;
        for release in RELEASED {
            let Some(database) = TestDatabase::start_empty(new.edition()).await else {
                continue;
            };
            let goal = Goal {
                to: Some(release.to_owned()),
                ..Goal::default()
            };
            let released = migrations::reach(database.connect().await, goal.clone()).await.unwrap();
            assert_eq!(released.run.last().unwrap(), release);
            let again = migrations::reach(database.connect().await, goal).await.unwrap();
            assert_eq!(again.run, Vec::<String>::new());
            let insert = "INSERT INTO symbols (symbol) VALUES ('A');
                          INSERT INTO candles_1m VALUES ('2019-10-11 00:00Z', 'A', 1, 2, 0.5, 1.5, 7, 3, 4)";
            database.connect().await.batch_execute(insert).await.unwrap();
            migrations::run(database.connect().await).await.unwrap();
            assert_eq!(
                database.text(fingerprint).await,
                expected,
                "{} {release}",
                new.edition()
            );
            let candle = "SELECT candle::text FROM candles_1m candle";
            assert!(database.text(candle).await.ends_with(",A,1,2,0.5,1.5,7,3,4)"));
        }
    }
}
