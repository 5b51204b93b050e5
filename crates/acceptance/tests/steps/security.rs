//! Users, passwords, and what is refused.

use std::fs;
use std::path::Path;

use acceptance::pipeline::Pipeline;
use acceptance::process::{project, run};
use acceptance::redis_server;
use cucumber::gherkin::Step;
use cucumber::{given, then};
use storage_core::config::redis::RedisConfig;
use storage_core::redis::connection::Connection;
use storage_core::testing::native::NativeServer;

use super::hot::rows;

#[given("Redis with the project's users")]
async fn project_users(world: &mut Pipeline) {
    let rights = fs::read_to_string(project().join("redis/users.acl")).unwrap();
    let users = rights
        .lines()
        .filter(|line| line.starts_with("user "))
        .map(|line| match line.split(' ').nth(1) {
            Some("default") | None => format!("{line}\n"),
            Some(name) => format!("{line} >{name}\n"),
        });
    let file = world.file("users.acl", &users.collect::<String>());
    world.users = true;
    let (url, password_file) = world.login("operator");
    let config = RedisConfig {
        password_file: Some(password_file),
        ..redis_server::config(&url).unwrap()
    };
    world
        .redis
        .restart_with(&["--aclfile", file.to_str().unwrap()], config)
        .await
        .unwrap();
}

#[given(expr = "Redis wants the password {string}")]
async fn requires_password(world: &mut Pipeline, password: String) {
    let url = world.redis.url_for(&format!(":{password}")).unwrap();
    let config = redis_server::config(&url).unwrap();
    world
        .redis
        .restart_with(&["--requirepass", &password], config)
        .await
        .unwrap();
}

#[given(expr = "the setting REDIS_URL is that of Redis with the password {string}")]
async fn url_with_password(world: &mut Pipeline, password: String) {
    let url = world.redis.url_for(&format!(":{password}")).unwrap();
    world.settings.insert("REDIS_URL".to_owned(), url);
}

#[given(expr = "a database server that wants a password, and workers with the password {string}")]
async fn database_password(world: &mut Pipeline, password: String) {
    let server = NativeServer::start(Some("the-right-one"), &[])
        .await
        .unwrap()
        .expect("a native server");
    let url = server.config().url.expose().replace("the-right-one", &password);
    world.settings.insert("DATABASE_URL".to_owned(), url);
    world.other_server = Some(server);
}

#[given("Redis with TLS")]
async fn tls(world: &mut Pipeline) {
    let file = |name: &str| world.folder.path().join(name).display().to_string();
    let (authority, authority_key) = (file("ca.pem"), file("ca.key"));
    let (certificate, key, request, names) = (file("redis.pem"), file("redis.key"), file("redis.csr"), file("names"));
    fs::write(&names, "subjectAltName=IP:127.0.0.1").unwrap();
    let new_key = ["req", "-newkey", "rsa:2048", "-nodes"];
    let openssl = async |arguments: &[&str]| {
        let outcome = run(Path::new("openssl"), arguments, &[]).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    };
    openssl(
        &[
            &new_key[..],
            &[
                "-x509",
                "-keyout",
                &authority_key,
                "-out",
                &authority,
                "-subj",
                "/CN=authority",
            ],
        ]
        .concat(),
    )
    .await;
    openssl(&[&new_key[..], &["-keyout", &key, "-out", &request, "-subj", "/CN=redis"]].concat()).await;
    let signer = [
        "-CA",
        &authority,
        "-CAkey",
        &authority_key,
        "-CAcreateserial",
        "-extfile",
        &names,
    ];
    openssl(&[&["x509", "-req", "-in", &request, "-out", &certificate], &signer[..]].concat()).await;

    let url = world.redis.url_for("").unwrap().replacen("redis", "rediss", 1);
    let config = RedisConfig {
        ca_file: Some(authority.clone().into()),
        ..redis_server::config(&url).unwrap()
    };
    world
        .settings
        .insert("STORAGE_REDIS__CA_FILE".to_owned(), authority.clone());
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
    world.redis.restart_with(&options, config).await.unwrap();
}

#[then("Redis refuses:")]
async fn refuses(world: &mut Pipeline, step: &Step) {
    for row in rows(step) {
        let (user, command) = (&row["user"], &row["command"]);
        // One server also of a cluster: it judges rights before it tells where a key is.
        let config = if user == "default" {
            redis_server::config(&world.redis.node_url_for("").unwrap()).unwrap()
        } else {
            RedisConfig {
                password_file: Some(world.login(user).1),
                ..redis_server::config(&world.redis.node_url_for(user).unwrap()).unwrap()
            }
        };
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
        assert!(refused, "{user}: {command}: {answer:?}");
    }
}
