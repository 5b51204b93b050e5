//! Users, passwords, and what is refused.

use std::fs;

use acceptance::pipeline::Pipeline;
use acceptance::process::project;
use acceptance::redis_server;
use cucumber::gherkin::Step;
use cucumber::{given, then};
use storage_core::config::redis::RedisConfig;
use storage_core::redis::connection::Connection;

use super::hot::rows;

#[given("Redis with the project's users")]
async fn project_users(world: &mut Pipeline) {
    let rights = fs::read_to_string(project().join("redis/users.acl")).unwrap();
    let users = rights.lines().filter(|line| line.starts_with("user ")).map(|line| match line.split(' ').nth(1) {
        Some("default") | None => format!("{line}\n"),
        Some(name) => format!("{line} >{name}\n"),
    });
    let file = world.file("users.acl", &users.collect::<String>());
    world.users = true;
    let (url, password_file) = world.login("operator");
    let config = RedisConfig { password_file: Some(password_file), ..redis_server::config(&url).unwrap() };
    world.redis.restart_with(&["--aclfile", file.to_str().unwrap()], config).await.unwrap();
}

#[given(expr = "Redis wants the password {string}")]
async fn requires_password(world: &mut Pipeline, password: String) {
    let url = format!("redis://:{password}@127.0.0.1:{}", world.redis.port().unwrap());
    let config = redis_server::config(&url).unwrap();
    world.redis.restart_with(&["--requirepass", &password], config).await.unwrap();
}

#[given(expr = "the setting REDIS_URL is that of Redis with the password {string}")]
async fn url_with_password(world: &mut Pipeline, password: String) {
    let url = format!("redis://:{password}@127.0.0.1:{}", world.redis.port().unwrap());
    world.settings.insert("REDIS_URL".to_owned(), url);
}

#[given(expr = "the database's user is {string}")]
async fn database_user(world: &mut Pipeline, user: String) {
    let url = world.database_url();
    let (scheme, rest) = url.split_once("://").unwrap();
    let address = rest.rsplit_once('@').map_or(rest, |(_, address)| address);
    let url = format!("{scheme}://{user}@{address}");
    world.settings.insert("DATABASE_URL".to_owned(), url);
}

#[then("Redis refuses:")]
async fn refuses(world: &mut Pipeline, step: &Step) {
    for row in rows(step) {
        let (user, command) = (&row["user"], &row["command"]);
        let config = if user == "default" {
            redis_server::config(&format!("redis://127.0.0.1:{}", world.redis.port().unwrap())).unwrap()
        } else {
            let (url, password_file) = world.login(user);
            RedisConfig { password_file: Some(password_file), ..redis_server::config(&url).unwrap() }
        };
        let mut cmd = redis::Cmd::new();
        command.split(' ').for_each(|word| {
            cmd.arg(word);
        });
        let answer = cmd.query_async::<redis::Value>(&mut Connection::ordinary(&config)).await;
        let refused = answer.as_ref().is_err_and(|error| matches!(error.code(), Some("NOPERM" | "NOAUTH")));
        assert!(refused, "{user}: {command}: {answer:?}");
    }
}
