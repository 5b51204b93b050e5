//! `deploy/postgres`: every role can do its work, and nothing else.

use std::path::Path;
use std::{env, fs};

use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use storage_core::config::postgres::PostgresConfig;
use storage_core::postgres::connection::connect;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::{Fault, sqlstate};
use storage_core::postgres::migrations;
use storage_core::postgres::queries::candles::upsert_1m;
use storage_core::postgres::queries::{policies, positions};
use storage_core::redis::stream::Stream;
use storage_core::testing::native::NativeServer;
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::process::tool;
use tokio::process::Command;

use super::{candle, revision};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/postgres");
const GRANTS: &str = include_str!("../../../../deploy/postgres/grants.sql");
const ROLES: [&str; 4] = ["aggregator-admin", "warm-syncer", "backup-runner", "reader"];

/// Where every role's password is its name.
fn at(server: &NativeServer, role: &str) -> PostgresConfig {
    let url = server
        .config()
        .url
        .expose()
        .replace("postgres:secret@", &format!("{role}:{role}@"));
    PostgresConfig::at(&url).unwrap()
}

async fn psql(config: &PostgresConfig, script: &str, secrets: &Path) {
    let program = tool("PG_BIN", concat!(env!("CARGO_MANIFEST_DIR"), "/../../.dev/bin"))
        .unwrap()
        .join("psql");
    let output = Command::new(program)
        .args(["-X", "-f", script, config.url.expose()])
        .env("POSTGRES_SECRETS", secrets)
        .current_dir(SCRIPTS)
        .output()
        .await
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn assert_refused(conn: &mut AsyncPgConnection, statements: &[&str]) {
    for statement in statements {
        let error = conn.batch_execute(statement).await.unwrap_err();
        // Not the owner, no right, or a read-only transaction.
        assert!(
            matches!(sqlstate(&error), Some("42501" | "25006")),
            "{statement}: {error}"
        );
    }
}

async fn write_and_correct(conn: &mut AsyncPgConnection) {
    for revised in [1, 2] {
        assert_eq!(upsert_1m(conn, &[candle("BTCUSDT", 0, 1.0, revised)]).await.unwrap(), 1);
    }
    conn.batch_execute(
        "INSERT INTO ticks VALUES ('2019-10-11', 'BTCUSDT', 1, 1, NULL, 1, '', 1) ON CONFLICT DO NOTHING;
         INSERT INTO symbols (symbol) VALUES ('BTCUSDT') ON CONFLICT DO NOTHING;
         INSERT INTO dead_letters (stream, entry_id, reason, fields) VALUES ('s', '1-1', 'r', '{}') ON CONFLICT DO NOTHING",
    )
    .await
    .unwrap();
    for number in [1, 2] {
        positions::raise(conn, Stream::Ticks(0), revision(number))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn each_role_has_the_rights_of_its_work() {
    let Some(server) = NativeServer::start(Some("secret"), &[]).await.unwrap() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for role in ROLES {
        fs::write(folder.path().join(format!("postgres-{role}")), format!("{role}\n")).unwrap();
    }
    // The second time as after a change of passwords.
    for _ in 0..2 {
        psql(server.config(), "roles.sql", folder.path()).await;
    }
    let admin = at(&server, "aggregator-admin");
    migrations::run(connect(&admin, "test").await.unwrap()).await.unwrap();
    psql(&admin, "grants.sql", folder.path()).await;

    let mut syncer = connect(&at(&server, "warm-syncer"), "test").await.unwrap();
    migrations::ensure_current(&mut syncer).await.unwrap();
    write_and_correct(&mut syncer).await;
    assert_refused(
        &mut syncer,
        &[
            "DELETE FROM candles_1m",
            "UPDATE ticks SET price = 2",
            "UPDATE symbols SET volume_decimals = 2",
            "DROP TABLE ticks",
            "CREATE TABLE mine ()",
            "DELETE FROM __diesel_schema_migrations",
            "CREATE ROLE other",
        ],
    )
    .await;

    let mut reader = connect(&at(&server, "reader"), "test").await.unwrap();
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

    let mut backup = connect(&at(&server, "backup-runner"), "test").await.unwrap();
    backup
        .batch_execute("SELECT * FROM ticks; SELECT pg_export_snapshot()")
        .await
        .unwrap();
    assert_refused(&mut backup, &["DELETE FROM ticks", "CREATE TABLE mine ()"]).await;
}

/// The embedded server has one user, who can take a role for a while.
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
    write_and_correct(&mut conn).await;

    act_as(&mut conn, "aggregator-admin").await;
    let jobs = policies::jobs(&mut conn, Edition::Community).await.unwrap();
    assert!(jobs.len() > 5, "{jobs:?}");
    for job in jobs {
        policies::run_job(&mut conn, job.id).await.unwrap();
    }
    act_as(&mut conn, "reader").await;
    conn.batch_execute("SELECT * FROM candles_in_units; SELECT * FROM candles_1d")
        .await
        .unwrap();

    // The policies compressed what is that old.
    act_as(&mut conn, "warm-syncer").await;
    let corrected = [
        candle("BTCUSDT", 0, 3.0, 3),
        candle("BTCUSDT", 1, 3.0, 3),
        candle("NEWCOIN", 1, 3.0, 3),
    ];
    assert_eq!(upsert_1m(&mut conn, &corrected).await.unwrap(), 3);
    conn.batch_execute(
        "INSERT INTO ticks VALUES ('2019-10-11', 'BTCUSDT', 1, 1, NULL, 1, '', 1), ('2019-10-11', 'BTCUSDT', 1, 1, NULL, 2, '', 1)
         ON CONFLICT DO NOTHING",
    )
    .await
    .unwrap();
    let error = conn.batch_execute("DELETE FROM candles_1m").await.unwrap_err();
    assert_eq!((sqlstate(&error), Fault::of(&error)), (Some("42501"), Fault::Permanent));
}
