//! Settings of Redis with which it loses data.

use redis::cmd;
use storage_core::config::redis::RedisConfig;
use storage_core::redis::connection::Connection;
use storage_core::redis::preflight::{check, inspect};
use storage_core::testing::redis::TestRedis;

/// Starts a server whose default user can lose its rights, and returns the configuration of another user.
async fn with_operator(options: &[&str]) -> (TestRedis, RedisConfig) {
    let redis = TestRedis::start_with(options).await;
    acl(
        &redis.config(),
        &["SETUSER", "operator", "on", ">operator", "~*", "&*", "+@all"],
    )
    .await;
    let url = redis.url().replace("redis://", "redis://operator:operator@");
    (redis, RedisConfig::at(&url).unwrap())
}

async fn acl(config: &RedisConfig, words: &[&str]) {
    let conn = &mut Connection::ordinary(config);
    cmd("ACL").arg(words).exec_async(conn).await.unwrap();
}

#[tokio::test]
async fn a_default_user_without_all_rights_is_refused_with_an_append_only_file() {
    let (_redis, config) = with_operator(&["--appendonly", "yes"]).await;
    check(&config).await.unwrap();
    for rights in [
        "off resetpass resetkeys resetchannels -@all",
        "off ~* &* +@all -hset",
        "off ~* &* +@all -xgroup|setid",
        "off resetkeys ~stream:* &* +@all",
        "off resetkeys %R~* &* +@all",
    ] {
        let words = ["SETUSER", "default", "~*", "+@all"]
            .into_iter()
            .chain(rights.split(' '));
        acl(&config, &words.collect::<Vec<_>>()).await;
        let error = check(&config).await.unwrap_err().to_string();
        let remedy = "run `ACL SETUSER default off resetpass ~* &* +@all` there";
        assert!(
            error.contains(remedy) && !error.contains("operator:operator"),
            "{rights}: {error}"
        );
        acl(
            &config,
            &["SETUSER", "default", "off", "resetpass", "~*", "&*", "+@all"],
        )
        .await;
        check(&config).await.unwrap();
    }
}

#[tokio::test]
async fn without_an_append_only_file_it_is_a_warning() {
    let (_redis, config) = with_operator(&["--appendonly", "no"]).await;
    acl(&config, &["SETUSER", "default", "off", "-@all"]).await;
    check(&config).await.unwrap();
    let found = inspect(&config).await.unwrap();
    assert!(
        found.warnings[0].contains("`appendonly` of Redis") && found.warnings[1].contains("`appendonly` is no now"),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_check_without_permission_is_a_warning() {
    let (redis, config) = with_operator(&["--appendonly", "yes"]).await;
    acl(&config, &["SETUSER", "worker", "on", ">worker", "~*", "+get"]).await;
    let worker = RedisConfig::at(&redis.url().replace("redis://", "redis://worker:worker@")).unwrap();
    check(&worker).await.unwrap();
    let found = inspect(&worker).await.unwrap();
    assert_eq!((found.faults.len(), found.warnings.len()), (0, 2), "{found:?}");
    assert!(
        found
            .warnings
            .iter()
            .all(|warning| warning.contains("+info +acl|dryrun")),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_policy_that_evicts_streams_is_refused_and_one_that_evicts_hashes_is_a_warning() {
    let (_redis, config) = with_operator(&["--appendonly", "yes"]).await;
    for (policy, faults, warnings) in [
        ("allkeys-lru", 1, 0),
        ("allkeys-random", 1, 0),
        ("volatile-ttl", 0, 1),
        ("noeviction", 0, 0),
    ] {
        let conn = &mut Connection::ordinary(&config);
        let mut set = cmd("CONFIG");
        set.arg("SET").arg("maxmemory-policy").arg(policy);
        set.exec_async(conn).await.unwrap();
        let found = inspect(&config).await.unwrap();
        assert_eq!(
            (found.faults.len(), found.warnings.len()),
            (faults, warnings),
            "{found:?}"
        );
    }
}
