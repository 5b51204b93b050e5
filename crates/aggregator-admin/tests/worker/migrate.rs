//! `migrate`: both stores are prepared, also repeatedly, and reverted.

use diesel_async::SimpleAsyncConnection;
use storage_core::domain::partition::partition_of;
use storage_core::domain::symbol::Symbol;
use storage_core::postgres::edition::Edition;
use storage_core::redis::keys;
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
async fn both_stores_are_prepared_once() {
    for stores in empty_stores().await {
        let status = stores.admin(&["status"]);
        assert_eq!(status.code, Some(1));
        assert!(status.stderr.contains("aggregator-admin migrate"), "{}", status.stderr);

        let first = stores.admin(&["migrate"]);
        assert_eq!(first.code, Some(0), "{}", first.stderr);
        for done in [
            "schema: ran",
            "functions: loaded",
            "partitions: 4",
            "consumer groups: created 19",
            "database: ",
        ] {
            assert!(first.stdout.contains(done), "{done}: {}", first.stdout);
        }
        let again = stores.admin(&["migrate"]);
        assert!(again.stdout.starts_with("nothing to do\n"), "{}", again.stdout);

        let unsure = stores.admin(&["migrate", "--down"]);
        assert_eq!(unsure.code, Some(64));
        assert!(unsure.stderr.contains("--yes"), "{}", unsure.stderr);
        let down = stores.admin(&["migrate", "--down", "--yes"]);
        assert!(down.stdout.contains("reverted"), "{}", down.stdout);
        assert_eq!(
            stores
                .database
                .number("SELECT (to_regclass('candles_1m') IS NULL)::int")
                .await,
            1
        );
        assert!(stores.admin(&["migrate"]).stdout.contains("schema: ran"));
        assert_eq!(stores.admin(&["status", "--json"]).code, Some(0));
    }
}

#[tokio::test]
async fn a_redis_belongs_to_one_database_until_another_takes_its_place() {
    for edition in [Edition::Community, Edition::Apache] {
        let (Some(first), Some(second)) = (
            TestDatabase::start(edition).await,
            TestDatabase::start_empty(edition).await,
        ) else {
            continue;
        };
        let mut stores = Stores::ready(first).await;
        let first = std::mem::replace(&mut stores.database, second);
        let refused = stores.admin(&["migrate"]);
        assert_eq!(refused.code, Some(64));
        assert!(
            refused.stderr.contains("Redis belongs to database"),
            "{}",
            refused.stderr
        );
        assert!(
            refused.stderr.contains("`aggregator-admin migrate --adopt-database`"),
            "{}",
            refused.stderr
        );
        assert_eq!(
            stores
                .database
                .number("SELECT (to_regclass('candles_1m') IS NULL)::int")
                .await,
            1,
            "a database that is not meant stays as it is"
        );

        assert!(
            stores
                .admin(&["migrate", "--adopt-database"])
                .stdout
                .contains(" instead of ")
        );
        assert!(
            stores
                .admin(&["migrate", "--adopt-database"])
                .stdout
                .starts_with("nothing to do\n")
        );
        assert_eq!(stores.admin(&["status"]).code, Some(0));
        stores.database = first;
        for command in [
            &["repair", "BTCUSDT", "--from", "2024-03-01", "--to", "2024-03-02"][..],
            &["symbols", "set", "BTCUSDT", "--volume-decimals", "2"],
            &["dead-letters", "requeue", "--all"],
            &["run"],
        ] {
            let refused = stores.admin(command);
            assert_eq!(refused.code, Some(64), "{command:?}: {}", refused.stderr);
            assert!(
                refused.stderr.contains("Redis belongs to database"),
                "{}",
                refused.stderr
            );
        }
        let status = stores.admin(&["status"]);
        assert!(
            status.code == Some(1) && status.stderr.contains("Redis belongs to database"),
            "{}",
            status.stderr
        );
    }
}

#[tokio::test]
async fn a_database_takes_no_others_place_while_that_is_written_to() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::ready(database).await;
    let mut redis = stores.redis.connect();
    for command in [
        redis::cmd("SET").arg("stream:database").arg("another@1/2"),
        redis::cmd("SET").arg("lease:warm-syncer:2").arg("warm-1"),
    ] {
        command.query_async::<()>(&mut redis).await.unwrap();
    }
    let refused = stores.admin(&["migrate", "--adopt-database", "--wait", "300ms"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused
            .stderr
            .contains("still belongs to database another@1/2: warm-syncers are running"),
        "{}",
        refused.stderr
    );
}

#[tokio::test]
async fn a_worker_ends_when_another_database_takes_the_place_of_its_own() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::ready(database).await;
    let worker = stores.worker();
    worker.logged("connected to the history").await;
    let mut set = redis::cmd("SET");
    set.arg("stream:database").arg("another@1/2");
    set.query_async::<()>(&mut stores.redis.connect()).await.unwrap();
    let (status, log) = (worker.ended().await, worker.log());
    assert_eq!(status.code(), Some(64), "{log}");
    assert!(log.contains("Redis belongs to database another@1/2"), "{log}");
}

#[tokio::test]
async fn settings_of_the_server_that_endanger_the_history_are_reported() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::with(database).await;
    // Test servers run without fsync, to be faster.
    let is_off = stores.database.text("SELECT current_setting('fsync')").await == "off";
    for said in [stores.admin(&["migrate"]).stdout, stores.admin(&["status"]).stdout] {
        assert_eq!(said.contains("warning: fsync is off"), is_off, "{said}");
    }
}

#[tokio::test]
async fn the_number_of_partitions_changes_only_while_nothing_is_in_flight() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let stores = Stores::ready(database).await;
    let mut redis = stores.redis.connect();
    // Open candles need no wait: the index of their symbols moves.
    let open = ["XRPETH", "A", "B", "C", "D"].map(|name| name.parse::<Symbol>().unwrap());
    for symbol in &open {
        let index = keys::open_symbols(partition_of(symbol, 4));
        let add = redis::cmd("ZADD").arg(index).arg(7).arg(symbol.as_str()).to_owned();
        add.exec_async(&mut redis).await.unwrap();
    }
    let more = stores.admin(&["migrate", "--partitions", "6"]);
    assert_eq!(more.code, Some(0), "{}", more.stderr);
    for partition in 0..6 {
        let index = keys::open_symbols(partition);
        let list = redis::cmd("ZRANGE").arg(index).arg(0).arg(-1).to_owned();
        let mut found: Vec<String> = list.query_async(&mut redis).await.unwrap();
        found.sort_unstable();
        let of_partition = open.iter().filter(|symbol| partition_of(symbol, 6) == partition);
        let mut expected: Vec<_> = of_partition.map(|symbol| symbol.as_str()).collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
        let since = redis::cmd("GET").arg(keys::complete_since(partition)).to_owned();
        assert_eq!(since.query_async::<Option<u64>>(&mut redis).await.unwrap(), Some(0));
    }
    assert!(
        position_of(&mut redis, Stream::Ticks(5), HOT_WRITER)
            .await
            .unwrap()
            .is_some()
    );

    let disagrees = stores.admin(&["migrate"]);
    assert_eq!(disagrees.code, Some(64));
    assert!(
        disagrees.stderr.contains("partitions is 6 in Redis but 4"),
        "{}",
        disagrees.stderr
    );

    stores
        .redis
        .add(Stream::Ticks(5), &vec![("symbol", "A".to_owned())])
        .await;
    let refused = stores.admin(&["migrate", "--partitions", "4"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("hot-writer has not finished stream:ticks:5"),
        "{}",
        refused.stderr
    );
}

#[tokio::test]
async fn migrate_waits_for_a_server_until_its_timeout() {
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
    assert_eq!(away.code, Some(1));
    assert!(
        away.stderr.contains("PostgreSQL did not answer within 300ms"),
        "{}",
        away.stderr
    );
    let away = stores.admin(&["migrate", "--wait", "300ms", "--redis-url", "redis://127.0.0.1:1"]);
    assert!(
        away.stderr.contains("Redis did not answer within 300ms"),
        "{}",
        away.stderr
    );
}

#[tokio::test]
async fn a_dry_run_names_migrations_and_locks_and_a_target_is_reached_down_and_up() {
    const TARGET: &str = "2026-11-28-001100_database_identity";
    for database in TestDatabase::start_each().await {
        let edition = database.edition();
        let stores = Stores::ready(database).await;
        let migrate = |arguments: &[&str]| stores.admin(&[&["migrate"], arguments].concat());
        let nothing = migrate(&["--dry-run"]);
        assert_eq!(
            (nothing.code, nothing.stdout.as_str()),
            (Some(0), "nothing to do\n"),
            "{}",
            nothing.stderr
        );

        let unsure = migrate(&["--to", TARGET]);
        assert_eq!(unsure.code, Some(64));
        assert!(
            unsure.stderr.contains("add --yes to confirm") && unsure.stderr.contains("2026-11-28-002120_coverage"),
            "{}",
            unsure.stderr
        );
        assert_eq!(migrate(&["--yes"]).code, Some(64), "there is nothing to confirm");
        let missing = migrate(&["--to", "2026-11-29"]);
        assert_eq!(missing.code, Some(64));
        assert!(
            missing.stderr.contains("the last one is 2026-11-28-"),
            "{}",
            missing.stderr
        );

        let would_revert = migrate(&["--to", TARGET, "--dry-run"]);
        for expected in [
            "schema: would revert 2026-11-28-002120_coverage",
            "locks against reads and writes: ",
        ] {
            assert!(
                would_revert.stdout.contains(expected),
                "{edition}: {}",
                would_revert.stdout
            );
        }
        assert_eq!(migrate(&["--dry-run"]).stdout, "nothing to do\n", "it was undone");

        let reverted = migrate(&["--to", TARGET, "--yes"]);
        assert_eq!(reverted.code, Some(0), "{}", reverted.stderr);
        assert!(reverted.stdout.contains("schema: reverted 2026-11-28-002120_coverage"));
        let would_run = migrate(&["--dry-run"]);
        assert!(
            would_run
                .stdout
                .contains("schema: would run 2026-11-28-002120_coverage")
                && would_run.stdout.contains("locks against reads and writes: "),
            "{}",
            would_run.stdout
        );
        let status = stores.admin(&["status"]);
        assert!(status.stderr.contains("migrations behind"), "{}", status.stderr);

        if edition == Edition::Apache {
            let mut other = stores.database.connect().await;
            let lock = "BEGIN; LOCK TABLE symbols IN ACCESS SHARE MODE";
            other.batch_execute(lock).await.unwrap();
            let given_up = migrate(&["--dry-run", "--wait", "1s"]);
            assert_eq!(given_up.code, Some(1));
            assert!(given_up.stderr.contains("lock timeout"), "{}", given_up.stderr);
        }
        let done = migrate(&[]);
        assert_eq!(done.code, Some(0), "{}", done.stderr);
        assert!(done.stdout.contains("schema: ran 2026-11-28-002120_coverage"));
    }
}
