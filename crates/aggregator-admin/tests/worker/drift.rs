//! A schema that was changed by hand is named, with the statement that restores it.

use diesel_async::SimpleAsyncConnection;
use storage_core::postgres::edition::Edition;
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::program::Outcome;

use crate::harness::Stores;

/// Changes with the text that names them.
const CHANGES: [(&str, &str); 6] = [
    (
        "ALTER TABLE candles_1m ADD COLUMN note text",
        "column candles_1m.note was added",
    ),
    ("DROP VIEW ticks_in_units", "view ticks_in_units is missing"),
    (
        "ALTER TABLE positions DROP CONSTRAINT positions_pkey",
        "constraint positions.positions_pkey is missing",
    ),
    (
        "DROP INDEX dead_letters_first_seen",
        "index dead_letters.dead_letters_first_seen is missing",
    ),
    (
        "CREATE INDEX mine ON signals (strategy)",
        "index signals.mine was added",
    ),
    ("DROP FUNCTION volume_units", "function volume_units is missing"),
];

const COMMUNITY: [(&str, &str); 2] = [
    (
        "SELECT remove_compression_policy('candles_1m')",
        "policy compression of candles_1m is missing",
    ),
    (
        "SELECT remove_continuous_aggregate_policy('candles_1h')",
        "policy refresh of candles_1h is missing",
    ),
];

const APACHE: [(&str, &str); 2] = [
    (
        "ALTER TABLE ticks DROP CONSTRAINT ticks_pkey",
        "constraint ticks.ticks_pkey is missing",
    ),
    (
        "ALTER TABLE rollup_progress ADD COLUMN note text",
        "column rollup_progress.note was added",
    ),
];

/// Returns the first statement of the report that restores the schema.
fn remedy(outcome: &Outcome) -> Option<&str> {
    let (_, rest) = outcome.stderr.split_once(" with `")?;
    rest.split_once("`, or accept it").map(|(statement, _)| statement)
}

#[tokio::test]
async fn each_change_by_hand_is_named_with_the_way_out() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        assert_eq!(stores.admin(&["status"]).code, Some(0));
        let own = match stores.database.edition() {
            Edition::Community => COMMUNITY,
            Edition::Apache => APACHE,
        };
        for (change, expected) in CHANGES.into_iter().chain(own) {
            stores.database.execute(change).await;
            for command in ["status", "migrate"] {
                let outcome = stores.admin(&[command]);
                assert_eq!(outcome.code, Some(1), "{command} after {change}");
                assert!(outcome.stderr.contains(expected), "{change}: {}", outcome.stderr);
            }
            assert!(stores.admin(&["plan"]).stdout.contains(expected), "{change}");
            let found = stores.admin(&["status"]);
            let statement = remedy(&found).unwrap_or_else(|| panic!("{}", found.stderr));
            let restored = stores.database.connect().await.batch_execute(statement).await;
            restored.unwrap_or_else(|error| panic!("{statement}: {error}"));
            let clean = stores.admin(&["migrate"]);
            assert_eq!(clean.code, Some(0), "{change}: {}", clean.stderr);
        }
    }
}

#[tokio::test]
async fn a_privilege_that_warm_syncer_lacks_is_a_warning() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::ready(database).await;
    stores
        .database
        .execute("REVOKE INSERT ON ticks FROM \"warm-syncer\"")
        .await;
    for command in ["status", "migrate", "plan"] {
        let found = stores.admin(&[command]);
        assert_eq!(found.code, Some(0), "{command}: {}", found.stderr);
        let lacking = "warm-syncer lacks privileges (INSERT on ticks); run deploy/postgres/grants.sql";
        assert!(found.stdout.contains(lacking), "{command}: {}", found.stdout);
    }
}

#[tokio::test]
async fn a_dropped_timeframe_is_named_and_an_intended_change_can_be_accepted() {
    for database in TestDatabase::start_each().await {
        let stores = Stores::ready(database).await;
        stores
            .database
            .execute("CREATE INDEX signals_by_strategy ON signals (strategy)")
            .await;
        assert_eq!(stores.admin(&["migrate"]).code, Some(1));
        assert_eq!(stores.admin(&["migrate", "--accept-schema"]).code, Some(0));
        assert_eq!(stores.admin(&["migrate"]).code, Some(0));

        let (drop, expected) = match stores.database.edition() {
            Edition::Community => (
                "DROP MATERIALIZED VIEW candles_1d CASCADE",
                "continuous aggregate candles_1d is missing; restore it with `CREATE MATERIALIZED VIEW candles_1d",
            ),
            Edition::Apache => ("DROP TABLE candles_1d CASCADE", "table candles_1d is missing"),
        };
        stores.database.execute(drop).await;
        for command in ["migrate", "status"] {
            let found = stores.admin(&[command]);
            assert_eq!(found.code, Some(1));
            assert!(found.stderr.contains(expected), "{command}: {}", found.stderr);
            assert!(
                found.stderr.contains("view candles_in_units is missing"),
                "{}",
                found.stderr
            );
        }
    }
}
