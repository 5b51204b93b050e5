//! Tests of `deploy/postgres`: each role can run its statements and no others.

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use storage_core::domain::amendment::{Amendment, Change};
use storage_core::domain::heartbeat::Coverage;
use storage_core::postgres::connection::connect;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::{Fault, sqlstate};
use storage_core::postgres::migrations;
use storage_core::postgres::queries::candles::{self, Candidate, Difference};
use storage_core::postgres::queries::trades::{self, Write};
use storage_core::postgres::queries::{coverage, dead_letters, policies, positions, signals, symbols, ticks};
use storage_core::redis::stream::Stream;
use storage_core::testing::native::NativeServer;
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::roles::{self, ROLES};

use crate::dead_letters::{letter, signal};
use crate::ticks::tick;
use crate::{OLD_US, candle, revision, symbol};

const GRANTS: &str = include_str!("../../../../deploy/postgres/grants.sql");

async fn assert_refused(conn: &mut AsyncPgConnection, statements: &[&str]) {
    for statement in statements {
        let error = conn.batch_execute(statement).await.unwrap_err();
        // The role is not the owner, lacks the privilege, or is in a read-only transaction.
        assert!(
            matches!(sqlstate(&error), Some("42501" | "25006")),
            "{statement}: {error}"
        );
    }
}

/// Runs the statements of warm-syncer.
async fn write_as_warm_syncer(conn: &mut AsyncPgConnection) {
    let btc = symbol("BTCUSDT");
    symbols::lock_decimals(conn).await.unwrap();
    for new in [1, 0] {
        assert_eq!(symbols::register(conn, &[&btc]).await.unwrap(), new);
    }
    assert_eq!(symbols::decimals(conn, &[&btc]).await.unwrap()[&btc], 8);

    candles::lock_partition(conn, 0).await.unwrap();
    assert_eq!(
        candles::insert_1m(conn, &[candle("BTCUSDT", 0, 1.0, 1)]).await.unwrap(),
        1
    );
    let candidate = Candidate {
        symbol: btc,
        start_us: OLD_US,
        trades: 3,
        since: revision(1),
        revision: revision(2),
    };
    assert_eq!(
        candles::compare(conn, &[candidate]).await.unwrap(),
        [(0, Difference::Newer)]
    );
    assert_eq!(
        candles::upsert_1m(conn, &[candle("BTCUSDT", 0, 2.0, 2)]).await.unwrap(),
        1
    );

    // The first entry of a trade counts, even if a later one was written before.
    for (entry, written) in [(2, 1), (2, 0), (1, 1)] {
        let tick = tick(0, 1.0, Some("7"), entry);
        assert_eq!(ticks::insert(conn, &[tick]).await.unwrap(), written, "entry {entry}");
    }
    let bust = Write::Amendment(Amendment {
        symbol: symbol("A"),
        ts_us: OLD_US,
        trade_id: "9".into(),
        change: Change::Bust,
        replaces: None,
        revision: revision(10),
    });
    let trade = Write::Trade(tick(0, 1.0, Some("9"), 3));
    let written = trades::write(conn, 0, &[trade, bust], |_| 8).await.unwrap();
    assert_eq!(written, [trades::Written::New, trades::Written::Amended(OLD_US)]);
    for new in [1, 0] {
        assert_eq!(signals::insert(conn, &[signal()]).await.unwrap(), new);
        assert_eq!(
            dead_letters::insert(conn, &[letter("stream:signals", "1-0", "a reason")])
                .await
                .unwrap(),
            new
        );
    }
    for number in [1, 2] {
        positions::raise(conn, Stream::Ticks(0), revision(number))
            .await
            .unwrap();
    }
    let covered = Coverage {
        feed: "f".to_owned(),
        since_us: OLD_US,
        until_us: OLD_US + 1,
        symbols: [symbol("BTCUSDT")].into(),
        is_down: false,
    };
    for _ in 0..2 {
        coverage::write(conn, std::slice::from_ref(&covered)).await.unwrap();
    }
    assert_eq!(coverage::latest(conn, &["f"].into()).await.unwrap(), [covered]);
    positions::record_loss(conn, Stream::Ticks(0), revision(1), revision(2))
        .await
        .unwrap();
}

#[tokio::test]
async fn each_role_has_the_privileges_that_it_needs() {
    let Some(server) = NativeServer::start(Some("secret"), &[]).await.unwrap() else {
        return;
    };
    // The second run is that after a change of passwords.
    for _ in 0..2 {
        roles::deploy(server.config()).await.unwrap();
    }
    let login = async |role| {
        let config = roles::login(server.config(), role).unwrap();
        connect(&config, "test").await.unwrap()
    };

    let mut syncer = login("warm-syncer").await;
    migrations::ensure_current(&mut syncer).await.unwrap();
    write_as_warm_syncer(&mut syncer).await;
    assert_refused(
        &mut syncer,
        &[
            "DELETE FROM candles_1m",
            "DELETE FROM tick_versions",
            "UPDATE symbols SET volume_decimals = 2",
            "DROP TABLE ticks",
            "CREATE TABLE mine ()",
            "DELETE FROM __diesel_schema_migrations",
            "CREATE ROLE other",
        ],
    )
    .await;

    let mut reader = login("reader").await;
    reader
        .batch_execute("SELECT * FROM candles_in_units; SELECT * FROM ticks_in_units")
        .await
        .unwrap();
    assert_refused(
        &mut reader,
        &[
            "INSERT INTO symbols (symbol) VALUES ('A')",
            "SET transaction_read_only = off; DELETE FROM ticks",
        ],
    )
    .await;

    let mut backup = login("backup-runner").await;
    backup
        .batch_execute("SELECT * FROM ticks; SELECT pg_export_snapshot()")
        .await
        .unwrap();
    assert_refused(&mut backup, &["DELETE FROM ticks", "CREATE TABLE mine ()"]).await;
}

/// Sets the role of the session, because the embedded server has a single user.
async fn act_as(conn: &mut AsyncPgConnection, role: &str) {
    conn.batch_execute(&format!("RESET ROLE; SET ROLE \"{role}\""))
        .await
        .unwrap();
}

#[tokio::test]
async fn the_community_editions_schema_needs_no_superuser() {
    let Some(database) = TestDatabase::start_empty(Edition::Community).await else {
        return;
    };
    let mut conn = database.connect().await;
    let roles = ROLES.map(|role| format!("CREATE ROLE \"{role}\" LOGIN;")).concat();
    conn.batch_execute(&format!(
        "{roles} GRANT ALL ON SCHEMA public TO \"aggregator-admin\"; CREATE EXTENSION IF NOT EXISTS timescaledb"
    ))
    .await
    .unwrap();
    drop(conn);
    let mut conn = database.connect().await;
    act_as(&mut conn, "aggregator-admin").await;
    migrations::run(conn).await.unwrap();

    let mut conn = database.connect().await;
    act_as(&mut conn, "aggregator-admin").await;
    let grants: Vec<&str> = GRANTS.lines().filter(|line| !line.starts_with('\\')).collect();
    conn.batch_execute(&grants.join("\n")).await.unwrap();
    act_as(&mut conn, "warm-syncer").await;
    write_as_warm_syncer(&mut conn).await;

    act_as(&mut conn, "aggregator-admin").await;
    let jobs = policies::jobs(&mut conn, Edition::Community).await.unwrap();
    assert!(jobs.len() > 5, "{jobs:?}");
    for job in jobs {
        policies::run_job(&mut conn, &job).await.unwrap();
    }
    act_as(&mut conn, "reader").await;
    conn.batch_execute("SELECT * FROM candles_in_units; SELECT * FROM candles_1d")
        .await
        .unwrap();

    // The policies have compressed rows of this age.
    act_as(&mut conn, "warm-syncer").await;
    let corrected = [
        candle("BTCUSDT", 0, 3.0, 3),
        candle("BTCUSDT", 1, 3.0, 3),
        candle("NEWCOIN", 1, 3.0, 3),
    ];
    assert_eq!(candles::upsert_1m(&mut conn, &corrected).await.unwrap(), 3);
    let ticks = [tick(0, 1.0, Some("7"), 0), tick(0, 1.0, Some("8"), 3)];
    assert_eq!(ticks::insert(&mut conn, &ticks).await.unwrap(), 2);
    let error = conn.batch_execute("DELETE FROM candles_1m").await.unwrap_err();
    assert_eq!((sqlstate(&error), Fault::of(&error)), (Some("42501"), Fault::Permanent));
}
