//! Backup and restore of Redis.

use std::fs;

use redis::{Value, cmd};
use storage_core::redis::connection::Connection;
use storage_core::redis::functions;
use storage_core::testing::polling::until_true;
use storage_core::testing::redis::TestRedis;

use crate::support::{Runner, flip_a_byte};

async fn server() -> (TestRedis, Connection) {
    let server = TestRedis::start_with(&["--repl-diskless-sync-delay", "0"]).await;
    let connection = server.connect();
    (server, connection)
}

async fn run(connection: &mut Connection, words: &[&[u8]]) -> Value {
    let mut command = cmd(std::str::from_utf8(words[0]).unwrap());
    for word in &words[1..] {
        command.arg(word);
    }
    command.query_async(connection).await.unwrap()
}

async fn fill(connection: &mut Connection) {
    functions::load(connection).await.unwrap();
    let commands: [&[&[u8]]; 8] = [
        &[b"SET", b"stream:partitions", b"4"],
        &[b"HSET", b"tick:latest:A", b"price", b"1.5"],
        &[b"PEXPIRE", b"tick:latest:A", b"3600000"],
        &[b"SET", b"\x00\xff binary", b"\r\n\x00\xfe"],
        &[b"XADD", b"stream:ticks:0", b"5-1", b"symbol", b"A"],
        &[b"XADD", b"stream:ticks:0", b"5-2", b"symbol", b"\xff"],
        &[b"XGROUP", b"CREATE", b"stream:ticks:0", b"hot-writer", b"0"],
        &[
            b"XREADGROUP",
            b"GROUP",
            b"hot-writer",
            b"one",
            b"COUNT",
            b"1",
            b"STREAMS",
            b"stream:ticks:0",
            b">",
        ],
    ];
    for command in commands {
        run(connection, command).await;
    }
}

#[tokio::test]
async fn everything_comes_back_with_its_groups_functions_and_remaining_time() {
    let (from, mut source) = server().await;
    fill(&mut source).await;
    run(&mut source, &[b"SET", b"soon", b"gone", b"PX", b"5000"]).await;
    let runner = Runner::new().redis(from.url());
    let printed = runner.done(&["backup", "redis"]);
    assert!(printed.contains("5 keys, 2 stream entries"), "{printed}");
    assert!(runner.done(&["verify"]).contains("whole"));
    let manifest = &runner.manifests()[0];
    let content = &manifest["content"];
    assert_eq!(
        (&content["keys"], &content["keys_with_expiry"]),
        (&5.into(), &2.into()),
        "{manifest}"
    );
    assert_eq!(content["role"], "master");
    assert_eq!(content["aof"]["enabled"], false);
    assert_eq!(content["aof"]["fsync"], "everysec");
    assert_eq!(content["functions"].as_array().unwrap().len(), 1, "{manifest}");
    until_true("the key expires", async || {
        run(&mut source, &[b"EXISTS", b"soon"]).await == Value::Int(0)
    })
    .await;

    let (to, mut target) = server().await;
    let runner = runner.redis(to.url());
    let printed = runner.done(&["restore", "redis", "latest"]);
    assert!(
        printed.contains("restored 4 keys, 1 streams with 2 entries"),
        "{printed}"
    );
    for query in [
        &[b"GET" as &[u8], b"\x00\xff binary"] as &[&[u8]],
        &[b"PEXPIRETIME", b"tick:latest:A"],
        &[b"XRANGE", b"stream:ticks:0", b"-", b"+"],
        &[b"XPENDING", b"stream:ticks:0", b"hot-writer"],
        &[b"FUNCTION", b"DUMP"],
    ] {
        assert_eq!(
            run(&mut target, query).await,
            run(&mut source, query).await,
            "{query:?}"
        );
    }
    assert_eq!(run(&mut target, &[b"EXISTS", b"soon"]).await, Value::Int(0));

    let refusal = runner.failed(&["restore", "redis", "latest"]);
    assert!(refusal.contains("not empty: it holds 4 keys, among them"), "{refusal}");
}

#[tokio::test]
async fn a_finished_backup_is_announced() {
    let (server, mut connection) = server().await;
    let runner = Runner::new().redis(server.url());
    runner.done(&["backup", "redis"]);
    let Value::Array(entries) = run(&mut connection, &[b"XRANGE", b"stream:backups", b"-", b"+"]).await else {
        panic!("no entries")
    };
    assert_eq!(entries.len(), 1);
    let name = runner.manifests()[0]["name"].as_str().unwrap().to_owned();
    assert!(format!("{entries:?}").contains(&name), "{entries:?}");
}

#[tokio::test]
async fn a_flipped_byte_is_found_and_the_backup_not_restored() {
    let (server, mut connection) = server().await;
    fill(&mut connection).await;
    let runner = Runner::new().redis(server.url());
    runner.done(&["backup", "redis"]);
    let folder = runner.only("redis");
    flip_a_byte(&folder.join("dump.rdb"));
    let complaint = runner.failed(&["verify", "--all"]);
    assert!(
        complaint.contains("dump.rdb was changed: its SHA-256 is"),
        "{complaint}"
    );
    run(&mut connection, &[b"FLUSHALL"]).await;
    let complaint = runner.failed(&["restore", "redis", "latest"]);
    assert!(complaint.contains("damaged and was not restored"), "{complaint}");

    fs::remove_file(folder.join("dump.rdb")).unwrap();
    let complaint = runner.failed(&["verify"]);
    assert!(complaint.contains("dump.rdb is missing"), "{complaint}");
    flip_a_byte(&folder.join("manifest.json"));
    let complaint = runner.failed(&["verify"]);
    assert!(complaint.contains("the manifest"), "{complaint}");
    assert!(runner.done(&["list"]).contains("damaged: the manifest"));
}

#[tokio::test]
async fn a_user_with_the_rights_of_backups_is_enough() {
    let acl = concat!(env!("CARGO_MANIFEST_DIR"), "/../../redis/users.acl");
    let rights = fs::read_to_string(acl).unwrap();
    let rights = rights
        .lines()
        .find_map(|line| line.strip_prefix("user backup-runner on "))
        .unwrap();
    let mut options = vec![
        "--repl-diskless-sync-delay",
        "0",
        "--user",
        "backup-runner",
        "on",
        ">hunter2",
    ];
    options.extend(rights.split(' '));
    let server = TestRedis::start_with(&options).await;
    let url = server.url().replace("redis://", "redis://backup-runner:hunter2@");
    let runner = Runner::new().redis(&url);
    let ended = runner.run(&["backup", "redis"]);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    let wrong = runner.redis(&url.replace("hunter2", "hunter3"));
    let refused = wrong.run(&["backup", "redis"]);
    assert_eq!(refused.code, Some(64), "{}", refused.stderr);
    assert!(
        refused.stderr.contains("authentication failed") && !refused.stderr.contains("hunter"),
        "{}",
        refused.stderr
    );
}
