//! Tests of `redis/users.acl`: each user can run its commands and no others.

mod clients;
mod losses;
mod workers;

use std::time::Duration;

use redis::{RedisResult, Value, cmd};
use storage_core::config::redis::RedisConfig;
use storage_core::domain::entry::Fields;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::symbol::Symbol;
use storage_core::error_class::ErrorClass;
use storage_core::redis::connection::Connection;
use storage_core::redis::group_reader::{GroupReader, GroupReaderOptions};
use storage_core::redis::lost::Losses;
use storage_core::redis::stream::{self, Stream};
use storage_core::redis::{functions, groups, partitions};
use storage_core::telemetry::readiness::Readiness;
use storage_core::testing::redis::TestRedis;

const USERS: &str = include_str!("../../../../../redis/users.acl");
const FIRST_SECOND: Duration = Duration::from_secs(1);

/// A server with the users of [`USERS`], whose passwords are their names, and with what `aggregator-admin migrate`
/// creates.
struct Server(TestRedis);

impl Server {
    async fn start() -> Self {
        let server = Self(TestRedis::start_with(&[]).await);
        let mut root = server.0.connect();
        for line in USERS.lines().filter(|line| !line.starts_with("user default")) {
            let words: Vec<&str> = line.split(' ').collect();
            cmd("ACL")
                .arg("SETUSER")
                .arg(&words[1..])
                .arg(format!(">{}", words[1]))
                .exec_async(&mut root)
                .await
                .unwrap();
        }
        let mut admin = server.user("aggregator-admin");
        functions::load(&mut admin).await.unwrap();
        partitions::store_once(&mut admin, 2).await.unwrap();
        for stream in Stream::all(2) {
            for group in stream.groups() {
                groups::create(&mut admin, stream, group).await.unwrap();
            }
        }
        server
    }

    fn config(&self, name: &str) -> RedisConfig {
        RedisConfig::at(&self.0.url().replace("redis://", &format!("redis://{name}:{name}@"))).unwrap()
    }

    fn user(&self, name: &str) -> Connection {
        Connection::ordinary(&self.config(name))
    }

    async fn assert_refused(&self, name: &str, commands: &[&str]) {
        for command in commands {
            let error = self.run(name, command).await.unwrap_err();
            assert_eq!(error.code(), Some("NOPERM"), "{name}: {command}: {error}");
            assert_eq!(ErrorClass::of(&error.into()), ErrorClass::Misconfigured);
        }
    }

    async fn run(&self, name: &str, command: &str) -> RedisResult<Value> {
        let words: Vec<&str> = command.split(' ').collect();
        cmd(words[0]).arg(&words[1..]).query_async(&mut self.user(name)).await
    }

    /// Adds a tick as feed-handler and returns its ID.
    async fn tick(&self) -> StreamId {
        let fields = vec![("symbol", "BTCUSDT".to_owned())];
        let id: String = stream::add(Stream::Ticks(0), &fields)
            .query_async(&mut self.user("feed-handler"))
            .await
            .unwrap();
        id.parse().unwrap()
    }

    async fn read(&self, name: &str, group: &'static str, stream: Stream) {
        let options = GroupReaderOptions {
            group,
            consumer: "test".to_owned(),
            batch: 10,
            block: Duration::from_millis(50),
            claim_after: Duration::ZERO,
            losses: Losses::new(&crate::LOST, &Readiness::default()),
        };
        let mut reader = GroupReader::new(&self.config(name), stream, options);
        reader.read().await.unwrap();
        reader.acknowledge(&[StreamId::START]).await.unwrap();
    }
}

fn symbol() -> Symbol {
    "BTCUSDT".parse().unwrap()
}

fn some_fields() -> Fields {
    vec![("symbol", "BTCUSDT".to_owned())]
}

#[tokio::test]
async fn no_user_can_log_in_without_a_password() {
    let mut kept = Vec::new();
    for line in USERS.lines() {
        let (user, rules) = line.strip_prefix("user ").unwrap().split_once(' ').unwrap();
        assert!(
            !rules.contains("nopass") && !rules.contains('>') && !rules.contains('#'),
            "{user}"
        );
        assert_eq!(rules.starts_with("off "), user == "default", "{user}");
        kept.push(user);
    }
    assert_eq!(
        kept,
        [
            "default",
            "hot-writer",
            "warm-syncer",
            "aggregator-admin",
            "backup-runner",
            "feed-handler",
            "strategy",
            "reader",
            "operator"
        ]
    );
}
