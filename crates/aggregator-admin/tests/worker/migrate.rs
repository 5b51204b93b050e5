//! `migrate`: both stores made ready, once and again, and taken down.

use storage_core::postgres::edition::Edition;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{HOT_WRITER, Stream};
use storage_core::testing::postgres::TestDatabase;

use crate::harness::Stores;

async fn empty_stores() -> Vec<Stores> {
    let mut stores = Vec::new();
    for edition in [Edition::Community, Edition::Apache] {
        if let Some(database) = TestDatabase::start_empty(edition).await {
            stores.push(Stores::with(database).await);
        }
    }
    stores
}

#[tokio::test]
async fn both_stores_are_made_ready_and_then_there_is_nothing_to_do() {
    for stores in empty_stores().await {
        let status = stores.admin(&["status"]);
        assert_eq!(status.code, 1);
        assert!(status.err.contains("aggregator-admin migrate"), "{}", status.err);

        let first = stores.admin(&["migrate"]);
        assert_eq!(first.code, 0, "{}", first.err);
        for done in [
            "schema: ran",
            "functions: loaded",
            "partitions: 4",
            "consumer groups: created 18",
        ] {
            assert!(first.out.contains(done), "{done}: {}", first.out);
        }
        let again = stores.admin(&["migrate"]);
        assert!(again.out.starts_with("nothing to do\n"), "{}", again.out);

        let unsure = stores.admin(&["migrate", "--down"]);
        assert_eq!(unsure.code, 64);
        assert!(unsure.err.contains("--yes"), "{}", unsure.err);
        let down = stores.admin(&["migrate", "--down", "--yes"]);
        assert!(down.out.contains("reverted"), "{}", down.out);
        assert_eq!(
            stores.number("SELECT (to_regclass('candles_1m') IS NULL)::int").await,
            1
        );
        assert!(stores.admin(&["migrate"]).out.contains("schema: ran"));
        assert_eq!(stores.admin(&["status", "--json"]).code, 0);
    }
}

#[tokio::test]
async fn the_number_of_partitions_changes_only_while_nothing_is_in_flight() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::ready(database).await;
    let more = stores.admin(&["migrate", "--partitions", "6"]);
    assert_eq!(more.code, 0, "{}", more.err);
    let mut redis = stores.redis.connect();
    assert!(
        position_of(&mut redis, Stream::Ticks(5), HOT_WRITER)
            .await
            .unwrap()
            .is_some()
    );

    let disagrees = stores.admin(&["migrate"]);
    assert_eq!(disagrees.code, 64);
    assert!(
        disagrees.err.contains("partitions is 6 in Redis but 4"),
        "{}",
        disagrees.err
    );

    stores.add(Stream::Ticks(5), &vec![("symbol", "A".to_owned())]).await;
    let refused = stores.admin(&["migrate", "--partitions", "4"]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.err.contains("hot-writer has not finished stream:ticks:5"),
        "{}",
        refused.err
    );
}

#[tokio::test]
async fn a_server_that_is_down_is_waited_for_only_so_long() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    let away = stores.admin(&[
        "migrate",
        "--wait",
        "300ms",
        "--database-url",
        "postgres://postgres@127.0.0.1:1/market",
    ]);
    assert_eq!(away.code, 1);
    assert!(
        away.err.contains("PostgreSQL did not answer within 300ms"),
        "{}",
        away.err
    );
    let away = stores.admin(&["migrate", "--wait", "300ms", "--redis-url", "redis://127.0.0.1:1"]);
    assert!(away.err.contains("Redis did not answer within 300ms"), "{}", away.err);
}
