//! A Redis Cluster for a test.

use redis::{FromRedisValue, cmd};

use super::process::free_port;
use super::redis::TestRedis;
use crate::config::redis::RedisConfig;
use crate::redis::connection::Connection;

const SLOTS: usize = 16_384;

/// Masters that share the slots.
#[derive(Debug)]
pub struct TestCluster {
    /// The masters, in the order of their slots.
    pub masters: Vec<TestRedis>,
    /// URL that names all masters.
    pub url: String,
}

impl TestCluster {
    /// Starts `size` masters.
    pub async fn start(size: usize) -> Self {
        let mut masters: Vec<(TestRedis, String)> = Vec::new();
        let share = SLOTS.div_ceil(size);
        for at in 0..size {
            let bus = free_port().expect("a free port").to_string();
            let enabled = ["--cluster-enabled", "yes", "--cluster-port", &bus];
            let master = TestRedis::start_with(&[&enabled[..], &["--repl-diskless-sync-delay", "0"]].concat()).await;
            let mut conn = master.connect();
            let (first, last) = (at * share, ((at + 1) * share).min(SLOTS) - 1);
            ask::<()>(&mut conn, &["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]).await;
            let slots = ["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()];
            ask::<()>(&mut conn, &slots).await;
            for (other, bus) in &masters {
                ask::<()>(&mut conn, &["CLUSTER", "MEET", "127.0.0.1", port(other), bus]).await;
            }
            masters.push((master, bus));
        }
        let masters: Vec<TestRedis> = masters.into_iter().map(|(master, _)| master).collect();
        let all = format!("cluster_size:{size}\r");
        for master in &masters {
            let mut conn = master.connect();
            let info = async |conn: &mut Connection| ask::<String>(conn, &["CLUSTER", "INFO"]).await;
            let mut known = info(&mut conn).await;
            while !(known.contains("cluster_state:ok") && known.contains(&all)) {
                tokio::task::yield_now().await;
                known = info(&mut conn).await;
            }
        }
        let addresses: Vec<String> = masters
            .iter()
            .map(|master| format!("127.0.0.1:{}", port(master)))
            .collect();
        let url = format!("redis+cluster://{}", addresses.join(","));
        Self { masters, url }
    }

    /// Opens a connection to the cluster.
    pub fn connect(&self) -> Connection {
        Connection::ordinary(&RedisConfig::at(&self.url).expect("a URL"))
    }
}

fn port(server: &TestRedis) -> &str {
    server.url().rsplit(':').next().expect("a port")
}

/// Runs a command and returns the reply.
pub async fn ask<T: FromRedisValue>(conn: &mut Connection, words: &[&str]) -> T {
    let mut command = cmd(words[0]);
    words[1..].iter().for_each(|word| {
        command.arg(word);
    });
    command.query_async(conn).await.expect("a reply")
}
