use std::fs;

use diesel::{QueryableByName, sql_query, sql_types::Bool};
use diesel_async::{AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection};
use storage_core::config::postgres::PostgresConfig;
use storage_core::postgres::connection::{ConnectError, connect};
use storage_core::postgres::error::{Fault, sqlstate};
use storage_core::postgres::migrations::{self, MigrationError};
use storage_core::testing::certificates::Certificates;
use storage_core::testing::native::NativeServer;

fn url(server: &NativeServer, query: &str) -> String {
    format!("{}{query}", server.config().url.expose())
}

fn refusal(opened: Result<AsyncPgConnection, ConnectError>) -> (Fault, String) {
    let error = opened.err().unwrap();
    (error.fault, error.to_string())
}

#[tokio::test]
async fn the_password_comes_from_a_file_that_is_read_again() {
    let Some(server) = NativeServer::start(Some("first"), &[]).await.unwrap() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "first\n").unwrap();
    let config = PostgresConfig {
        password_file: Some(file.clone()),
        ..server.config().clone()
    };
    let mut conn = connect(&config, "test").await.unwrap();

    conn.batch_execute("ALTER ROLE postgres PASSWORD 'second'")
        .await
        .unwrap();
    let (fault, text) = refusal(connect(&config, "test").await);
    assert_eq!(fault, Fault::Permanent);
    assert!(text.contains("`password_file`") && !text.contains("first"), "{text}");
    fs::write(&file, "second\n").unwrap();
    connect(&config, "test").await.unwrap();

    fs::remove_file(&file).unwrap();
    let (fault, text) = refusal(connect(&config, "test").await);
    assert_eq!(fault, Fault::Permanent);
    assert!(text.contains("password"), "{text}");
}

#[derive(QueryableByName)]
struct Encrypted {
    #[diesel(sql_type = Bool)]
    ssl: bool,
}

async fn is_encrypted(conn: &mut AsyncPgConnection) -> bool {
    let row: Encrypted = sql_query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        .get_result(conn)
        .await
        .unwrap();
    row.ssl
}

#[tokio::test]
async fn tls_follows_sslmode() {
    let Some(certificates) = Certificates::create("DNS:localhost") else {
        return;
    };
    let file = |name: &str| certificates.file(name);
    let (certificate, key) = (file("server.pem"), file("server.key"));
    let settings = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", certificate.display()),
        format!("ssl_key_file={}", key.display()),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let Some(server) = NativeServer::start(Some("secret"), &settings).await.unwrap() else {
        return;
    };
    let open = async |query: &str, ca_file: Option<&str>, host: &str| {
        let url = url(&server, query).replace("127.0.0.1", host);
        let config = PostgresConfig {
            ca_file: ca_file.map(file),
            ..PostgresConfig::at(&url).unwrap()
        };
        connect(&config, "test").await
    };

    let mut plain = open("?sslmode=disable", None, "127.0.0.1").await.unwrap();
    assert!(!is_encrypted(&mut plain).await);
    for (query, ca_file, host) in [
        ("", None, "127.0.0.1"),
        ("?sslmode=require", None, "127.0.0.1"),
        ("?sslmode=require", Some("ca.pem"), "localhost"),
        ("?sslmode=verify-full", Some("ca.pem"), "localhost"),
    ] {
        let mut conn = open(query, ca_file, host).await.unwrap();
        assert!(is_encrypted(&mut conn).await, "{query}");
        let error = conn.batch_execute("SELECT 1/0").await.unwrap_err();
        assert_eq!(sqlstate(&error), Some("22012"), "{query}");
    }
    for (query, ca_file, host) in [
        ("?sslmode=require", Some("stranger.pem"), "localhost"),
        ("?sslmode=verify-full", Some("stranger.pem"), "localhost"),
        ("?sslmode=verify-full", Some("ca.pem"), "127.0.0.1"),
        ("?sslmode=verify-full", Some("missing.pem"), "localhost"),
    ] {
        let (_, text) = refusal(open(query, ca_file, host).await);
        assert!(
            text.contains("certificate") || text.contains("missing.pem"),
            "{query} {ca_file:?}: {text}"
        );
    }
}

#[tokio::test]
async fn a_server_without_tls_is_refused_where_tls_is_required() {
    let Some(server) = NativeServer::start(None, &[]).await.unwrap() else {
        return;
    };
    let config = PostgresConfig::at(&url(&server, "?sslmode=require")).unwrap();
    let (_, text) = refusal(connect(&config, "test").await);
    assert!(text.contains("does not support TLS"), "{text}");
    connect(server.config(), "test").await.unwrap();
}

#[tokio::test]
async fn the_error_of_a_server_without_timescaledb_names_the_remedy() {
    let Some(server) = NativeServer::start(None, &["shared_preload_libraries="]).await.unwrap() else {
        return;
    };
    let error = migrations::run(connect(server.config(), "test").await.unwrap())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("set shared_preload_libraries"), "{error}");
    assert!(matches!(error, MigrationError::NoTimescale { .. }), "{error:?}");
}

#[tokio::test]
async fn the_error_of_a_role_without_rights_names_the_remedy() {
    let Some(server) = NativeServer::start(None, &[]).await.unwrap() else {
        return;
    };
    connect(server.config(), "test")
        .await
        .unwrap()
        .batch_execute("CREATE ROLE worker LOGIN")
        .await
        .unwrap();
    let config = PostgresConfig::at(&server.config().url.expose().replace("postgres@", "worker@")).unwrap();
    let error = migrations::run(connect(&config, "test").await.unwrap())
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("let the database's owner run `CREATE EXTENSION timescaledb`"),
        "{error}"
    );
    connect(server.config(), "test")
        .await
        .unwrap()
        .batch_execute("CREATE EXTENSION timescaledb")
        .await
        .unwrap();
    let error = migrations::run(connect(&config, "test").await.unwrap())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("grant the role what it needs"), "{error}");
}
