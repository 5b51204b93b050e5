//! Users, passwords and TLS.

use std::fs;

use acceptance::redis_server;
use cucumber::gherkin::Step;
use cucumber::{given, then};
use storage_core::config::redis::RedisConfig;
use storage_core::redis::connection::Connection;
use storage_core::testing::certificates::Certificates;
use storage_core::testing::native::NativeServer;
use storage_core::testing::process::project;

use super::table::rows;
use super::world::World;

/// Redis loads its append-only file as the default user, so that this user needs all rights.
#[given(expr = "a Redis whose ACL file contains {string}")]
async fn default_line(world: &mut World, line: String) {
    let rights = fs::read_to_string(project().join("redis/users.acl")).unwrap();
    let lines = rights.lines().filter(|line| !line.starts_with("user default "));
    let rights: Vec<&str> = lines.chain([line.as_str()]).collect();
    let file = world.pipeline.file("users.acl", &(rights.join("\n") + "\n"));
    world.pipeline.redis_mut().restart_with_users(file).await.unwrap();
}

#[given(expr = "workers with the password {string} for Redis")]
async fn redis_password(world: &mut World, password: String) {
    let file = world.pipeline.file("wrong.password", &password);
    world.pipeline.set("REDIS_PASSWORD_FILE", file.display().to_string());
}

#[given(expr = "a database server that wants a password, and workers with the password {string}")]
async fn database_password(world: &mut World, password: String) {
    let server = NativeServer::start(Some("the-right-one"), &[])
        .await
        .unwrap()
        .expect("a native server");
    let url = server.config().url.expose().replace("the-right-one", &password);
    world.pipeline.connect_to(server, url);
}

#[given("Redis with TLS")]
async fn tls(world: &mut World) {
    let certificates = Certificates::create("IP:127.0.0.1").expect("openssl");
    let [authority, certificate, key] = ["ca.pem", "server.pem", "server.key"].map(|name| certificates.file(name));
    let [authority, certificate, key] = [authority, certificate, key].map(|file| file.display().to_string());
    let url = world.pipeline.redis().url().replacen("redis", "rediss", 1);
    let config = RedisConfig {
        ca_file: Some(authority.clone().into()),
        ..redis_server::config(&url).unwrap()
    };
    world.pipeline.set("STORAGE_REDIS__CA_FILE", &authority);
    let files = [
        "--tls-cert-file",
        &certificate,
        "--tls-key-file",
        &key,
        "--tls-ca-cert-file",
        &authority,
    ];
    let options = [
        &[
            "--port",
            "0",
            "--tls-port",
            redis_server::PORT,
            "--tls-auth-clients",
            "no",
        ],
        &["--tls-cluster", "yes"][..],
        &files[..],
    ]
    .concat();
    world.pipeline.redis_mut().restart_with(&options, config).await.unwrap();
    world.notes.certificates = Some(certificates);
}

#[then("Redis rejects these commands:")]
async fn rejects(world: &mut World, step: &Step) {
    for row in rows(step) {
        let (user, command) = (&row["user"], &row["command"]);
        // Redis checks permissions before redirections, so one server of a cluster suffices.
        let user = Some(user.as_str()).filter(|user| *user != "default");
        let config = world.pipeline.redis().node_config_for(user).unwrap();
        let mut cmd = redis::Cmd::new();
        command.split(' ').for_each(|word| {
            cmd.arg(word);
        });
        let answer = cmd
            .query_async::<redis::Value>(&mut Connection::ordinary(&config))
            .await;
        let refused = answer
            .as_ref()
            .is_err_and(|error| matches!(error.code(), Some("NOPERM" | "NOAUTH")));
        assert!(refused, "{user:?}: {command}: {answer:?}");
    }
}
