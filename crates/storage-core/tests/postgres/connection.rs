use std::time::Duration;

use diesel::sql_types::Text;
use diesel::{QueryableByName, sql_query};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use storage_core::config::postgres::PostgresConfig;
use storage_core::domain::database_identity::DatabaseIdentity;
use storage_core::postgres::connection::connect;
use storage_core::postgres::edition::Edition;
use storage_core::postgres::error::{Fault, describe, sqlstate};
use storage_core::postgres::pool::Pool;
use storage_core::postgres::queries::identity::identity;
use storage_core::testing::postgres::TestDatabase;
use storage_core::testing::process::free_port;

#[tokio::test]
async fn errors_keep_their_sqlstate() {
    for database in TestDatabase::start_each().await {
        let conn = &mut database.connect().await;
        for (statement, code, fault) in [
            ("SELECT 1/0", "22012", Fault::BadRow),
            ("SELECT 9223372036854775807 + 1", "22003", Fault::BadRow),
            ("SELECT * FROM nowhere", "42P01", Fault::Permanent),
            ("INSERT INTO symbols (symbol) VALUES ('A:B')", "23514", Fault::BadRow),
            ("BEGIN READ ONLY; DELETE FROM symbols", "25006", Fault::Transient),
            (
                "DO $$ BEGIN RAISE EXCEPTION 'disk' USING ERRCODE = '53100'; END $$",
                "53100",
                Fault::Transient,
            ),
        ] {
            let error = conn.batch_execute(statement).await.unwrap_err();
            assert_eq!(
                (sqlstate(&error), Fault::of(&error)),
                (Some(code), fault),
                "{statement}: {}",
                describe(&error)
            );
            let _ = conn.batch_execute("ROLLBACK").await;
        }
    }
}

#[tokio::test]
async fn a_server_that_is_down_is_a_transient_error_that_names_it() {
    let port = free_port().unwrap();
    let config = PostgresConfig::at(&format!("postgres://u:hunter2@127.0.0.1:{port}/market")).unwrap();
    let error = Pool::new(&config, "test").get().await.err().unwrap();
    let text = error.to_string();
    assert_eq!(error.fault, Fault::Transient, "{text}");
    assert!(
        text.contains(&port.to_string()) && text.contains("is it running"),
        "{text}"
    );
    assert!(!text.contains("hunter2"), "{text}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_times_out() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let config = PostgresConfig {
        connect_timeout: Duration::from_millis(100),
        ..PostgresConfig::at(&format!("postgres://u@127.0.0.1:{port}/market")).unwrap()
    };
    let error = connect(&config, "test").await.err().unwrap();
    assert_eq!(error.fault, Fault::Transient);
    assert!(error.to_string().contains("no answer"), "{error}");
}

#[tokio::test]
async fn a_missing_database_is_a_permanent_error() {
    let Some(database) = TestDatabase::start(Edition::Apache).await else {
        return;
    };
    let config = PostgresConfig::at(&format!(
        "{}_gone?sslmode=prefer",
        database.url().split('?').next().unwrap()
    ))
    .unwrap();
    let error = connect(&config, "test").await.err().unwrap();
    assert_eq!(error.fault, Fault::Permanent);
    assert!(error.to_string().contains("create the database"), "{error}");
}

#[derive(QueryableByName)]
struct Setting {
    #[diesel(sql_type = Text)]
    value: String,
}

async fn synchronous_commit(connection: &mut AsyncPgConnection) -> String {
    let query = sql_query("SELECT current_setting('synchronous_commit') AS value");
    let setting: Setting = query.get_result(connection).await.unwrap();
    setting.value
}

#[tokio::test]
async fn every_session_commits_synchronously_regardless_of_the_default() {
    for database in TestDatabase::start_each().await {
        assert_eq!(synchronous_commit(&mut database.connect().await).await, "on");
        // The embedded server has one session, which a new default does not affect.
        if database.edition() == Edition::Community {
            continue;
        }
        let mut admin = database.connect().await;
        for (default, in_sessions) in [
            ("off", "on"),
            ("on", "on"),
            ("local", "local"),
            ("remote_write", "remote_write"),
            ("remote_apply", "remote_apply"),
        ] {
            let set = format!(
                "DO $$ BEGIN
                     EXECUTE format('ALTER DATABASE %I SET synchronous_commit = {default}', current_database());
                 END $$"
            );
            admin.batch_execute(&set).await.unwrap();
            let pool = database.pool();
            assert_eq!(synchronous_commit(&mut database.connect().await).await, in_sessions);
            assert_eq!(synchronous_commit(&mut pool.get().await.unwrap()).await, in_sessions);
        }
        let separator = if database.url().contains('?') { '&' } else { '?' };
        let url = format!("{}{separator}options=-c%20synchronous_commit%3Doff", database.url());
        let config = PostgresConfig {
            url: PostgresConfig::at(&url).unwrap().url,
            ..database.config()
        };
        assert_eq!(
            synchronous_commit(&mut connect(&config, "test").await.unwrap()).await,
            "on"
        );
    }
}

#[tokio::test]
async fn a_pool_refuses_another_database() {
    for database in TestDatabase::start_each().await {
        let pool = database.pool();
        let found = identity(&mut pool.get().await.unwrap()).await.unwrap();
        assert_eq!(identity(&mut database.connect().await).await.unwrap(), found);
        pool.keep_to(found);
        assert!(pool.get().await.is_ok());

        let elsewhere = database.pool();
        elsewhere.keep_to(DatabaseIdentity::new("another@1/2"));
        let error = elsewhere.get().await.err().unwrap();
        assert_eq!(error.fault, Fault::Permanent);
        assert!(error.to_string().contains("was another@1/2 before"), "{error}");
    }
}

#[tokio::test]
async fn a_broken_connection_is_replaced_by_the_pool() {
    for database in TestDatabase::start_each().await {
        let pool = database.pool();
        {
            let mut conn = pool.get().await.unwrap();
            // The embedded server has a single backend, which must not end.
            if database.edition() == Edition::Apache {
                let error = conn
                    .batch_execute("SELECT pg_terminate_backend(pg_backend_pid())")
                    .await
                    .unwrap_err();
                assert_eq!(Fault::of(&error), Fault::Transient, "{}", describe(&error));
            }
        }
        pool.get().await.unwrap().batch_execute("SELECT 1").await.unwrap();
    }
}
