//! Emptying streams that are full: hot-writer, and the bare client that throws away what it reads.

use std::time::{Duration, Instant};

use acceptance::pipeline::PARTITIONS;
use acceptance::redis_server::RedisServer;
use anyhow::{Context, ensure};
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{HOT_WRITER, Stream};
use storage_core::testing::program::Worker;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::client::Client;
use super::load::{Loaded, waiting};
use crate::bench::{Bench, sample, serves};

/// `hot.batch_entries` as it is by default.
pub(crate) const BATCH_ENTRIES: usize = 5_000;
/// How often it is asked whether all is done.
const POLL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(600);

/// What emptying the streams took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// Processor time of Redis, in µs a tick.
    pub(crate) server_us: f64,
    /// Commands that Redis ran a tick, those that functions call included.
    pub(crate) commands: f64,
}

/// What Redis has done so far.
struct Work {
    seconds: f64,
    commands: f64,
}

async fn work(redis: &RedisServer) -> anyhow::Result<Work> {
    let info: String = redis.ask(&["INFO", "everything"]).await?;
    let value = |name: &str| -> anyhow::Result<f64> {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        Ok(line.with_context(|| format!("no {name} in INFO"))?.trim().parse()?)
    };
    Ok(Work {
        seconds: value("used_cpu_user")? + value("used_cpu_sys")?,
        commands: value("total_commands_processed")?,
    })
}

impl Loaded {
    /// The bare client: XREAD of the same batch size, one stream after the other, each reply scanned to its end and forgotten.
    pub(crate) async fn read_barely(&self) -> anyhow::Result<Cost> {
        let before = work(&self.redis).await?;
        let port = self.redis.port()?;
        let last_ids = self.last_ids.clone();
        let begun = Instant::now();
        spawn_blocking(move || {
            let mut client = Client::connect(port)?;
            for (partition, last_id) in (0..PARTITIONS).zip(last_ids) {
                read_all(&mut client, &waiting(partition), &last_id.unwrap_or_default())?;
            }
            anyhow::Ok(())
        })
        .await??;
        self.cost(begun.elapsed(), before).await
    }

    /// hot-writer, which is ready and waits: from the moment at which the full streams are there until its group has finished all
    /// of them.
    pub(crate) async fn drain(&self, worker: &mut Worker) -> anyhow::Result<Cost> {
        let before = work(&self.redis).await?;
        let begun = Instant::now();
        self.publish().await?;
        let mut conn = self.redis.connect();
        for (partition, last_id) in (0..PARTITIONS).zip(&self.last_ids) {
            let Some(last_id) = last_id else { continue };
            loop {
                let position = position_of(&mut conn, Stream::Ticks(partition), HOT_WRITER).await?;
                if position.is_some_and(|position| position.delivered.to_string() == *last_id) {
                    break;
                }
                ensure!(begun.elapsed() < PATIENCE, "not drained within {PATIENCE:?}");
                sleep(POLL).await;
            }
        }
        let cost = self.cost(begun.elapsed(), before).await?;
        let folded = sample(worker, "hot_writer_ticks_folded_total").await?;
        ensure!(
            folded == self.load.ticks as f64,
            "hot-writer has folded {folded} of {} ticks:\n{}",
            self.load.ticks,
            worker.log()
        );
        Ok(cost)
    }

    async fn cost(&self, elapsed: Duration, before: Work) -> anyhow::Result<Cost> {
        let after = work(&self.redis).await?;
        let ticks = self.load.ticks as f64;
        Ok(Cost {
            seconds: elapsed.as_secs_f64(),
            server_us: (after.seconds - before.seconds) * 1e6 / ticks,
            commands: (after.commands - before.commands) / ticks,
        })
    }
}

/// A hot-writer that serves all partitions of a Redis in which there is nothing to read yet.
pub(crate) async fn hot_writer(bench: &Bench, redis: &RedisServer) -> anyhow::Result<Worker> {
    let mut worker = bench.worker("hot-writer", &[("REDIS_URL", redis.url())]);
    serves(&mut worker, PARTITIONS).await?;
    Ok(worker)
}

fn read_all(client: &mut Client, stream: &str, last_id: &str) -> anyhow::Result<()> {
    let count = BATCH_ENTRIES.to_string();
    let mut position = b"0-0".to_vec();
    while position != last_id.as_bytes() && !last_id.is_empty() {
        client.pack(&[
            b"XREAD",
            b"COUNT",
            count.as_bytes(),
            b"STREAMS",
            stream.as_bytes(),
            &position,
        ]);
        client.send()?;
        position = client.reply()?.last_id.to_vec();
        ensure!(!position.is_empty(), "{stream} ends before {last_id}");
    }
    Ok(())
}
