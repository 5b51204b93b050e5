use std::path::Path;
use std::time::Duration;

use redis::{RedisError, RedisResult, cmd};
use storage_core::config::redis::RedisConfig;
use storage_core::domain::stream_id::StreamId;
use storage_core::error_class::ErrorClass;
use storage_core::redis::connection::Connection;
use storage_core::redis::stream::Stream;
use storage_core::redis::stream_reader::StreamReader;
use storage_core::testing::certificates::Certificates;
use storage_core::testing::process::free_port;
use storage_core::testing::redis::TestRedis;

/// Starts a server with TLS, optionally with client certificates, and returns its TLS port.
async fn start(certificates: &Certificates, auth_clients: &str) -> (TestRedis, u16) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let port = free_port().unwrap();
    let file = |name| certificates.file(name).display().to_string();
    let options = [
        "--tls-port",
        &port.to_string(),
        "--tls-cert-file",
        &file("server.pem"),
        "--tls-key-file",
        &file("server.key"),
        "--tls-ca-cert-file",
        &file("ca.pem"),
        "--tls-auth-clients",
        auth_clients,
    ];
    (TestRedis::start_with(&options).await, port)
}

/// Connects with both kinds of connection, whose results must agree.
async fn ping(config: &RedisConfig) -> RedisResult<String> {
    let wait = Duration::from_millis(10);
    let read = StreamReader::new(config, Stream::Ticks(0), StreamId::START, wait)
        .next(1, wait)
        .await;
    let answer = cmd("PING").query_async(&mut Connection::ordinary(config)).await;
    let seen = |error: RedisError| (error.to_string(), ErrorClass::of(&error.into()));
    assert_eq!(read.map_err(seen).err(), answer.clone().map_err(seen).err());
    answer
}

fn trusting(url: &str, ca_file: &Path) -> RedisConfig {
    RedisConfig {
        ca_file: Some(ca_file.to_owned()),
        ..RedisConfig::at(url).unwrap()
    }
}

#[tokio::test]
async fn the_server_needs_a_certificate_for_its_name_from_the_authority() {
    let Some(certificates) = Certificates::create("DNS:localhost") else {
        return;
    };
    let (_redis, port) = start(&certificates, "no").await;
    let (ca, stranger) = (certificates.file("ca.pem"), certificates.file("stranger.pem"));
    let named = format!("rediss://localhost:{port}");

    assert_eq!(ping(&trusting(&named, &ca)).await.unwrap(), "PONG");
    for (config, why) in [
        (trusting(&named, &stranger), "another authority"),
        (trusting(&format!("rediss://127.0.0.1:{port}"), &ca), "another name"),
        (RedisConfig::at(&named).unwrap(), "the system's authorities"),
        (trusting(&named, Path::new("/nowhere/ca.pem")), "no authority"),
    ] {
        let error = ping(&config).await.unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("certificate") || text.contains("/nowhere/ca.pem"),
            "{why}: {text}"
        );
        assert_eq!(
            ErrorClass::of(&error.into()),
            ErrorClass::Misconfigured,
            "{why}: {text}"
        );
    }
}

#[tokio::test]
async fn a_client_certificate_is_sent_to_a_server_that_requires_it() {
    let Some(certificates) = Certificates::create("DNS:localhost") else {
        return;
    };
    let (_redis, port) = start(&certificates, "yes").await;
    let without = trusting(&format!("rediss://localhost:{port}"), &certificates.file("ca.pem"));
    ping(&without).await.unwrap_err();

    let with = RedisConfig {
        cert_file: Some(certificates.file("client.pem")),
        key_file: Some(certificates.file("client.key")),
        ..without
    };
    assert_eq!(ping(&with).await.unwrap(), "PONG");

    let half = RedisConfig { key_file: None, ..with };
    let error = ping(&half).await.unwrap_err().to_string();
    assert!(error.contains("`cert_file` and `key_file`"), "{error}");
}

#[tokio::test]
async fn certificates_without_tls_in_the_url_are_refused() {
    let Some(certificates) = Certificates::create("DNS:localhost") else {
        return;
    };
    let config = trusting("redis://localhost", &certificates.file("ca.pem"));
    let error = ping(&config).await.unwrap_err().to_string();
    assert!(error.contains("rediss://"), "{error}");
}
