//! Draining a backlog: by hot-writer, and by a bare client that discards what it reads.

use std::time::{Duration, Instant};

use acceptance::producer::PARTITIONS;
use acceptance::redis_server::RedisServer;
use anyhow::ensure;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{HOT_WRITER, Stream};
use storage_core::testing::program::Worker;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::client::Client;
use super::load::{LoadedRedis, staging_stream};
use super::usage::{Usage, redis_usage};
use crate::bench::{Bench, sample, serves};

/// Default of `hot.batch_entries`.
pub(crate) const BATCH_ENTRIES: usize = 5_000;
const POLL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(600);

/// Cost of draining the streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    ticks: u64,
    pub(crate) seconds: f64,
    /// CPU time of Redis, in µs per tick.
    pub(crate) server_us: f64,
    /// Commands of Redis per tick, including those that functions call.
    pub(crate) commands: f64,
}

impl Cost {
    pub(crate) fn ticks_per_s(&self) -> f64 {
        self.ticks as f64 / self.seconds
    }
}

impl LoadedRedis {
    /// Drains the streams by a bare client: XREAD with the same batch size, one stream after the other. It scans each
    /// reply to its end and discards it.
    pub(crate) async fn drain_by_bare_client(&self) -> anyhow::Result<Cost> {
        let before = redis_usage(&self.redis).await?;
        let port = self.redis.port()?;
        let last_ids = self.last_ids.clone();
        let begun = Instant::now();
        spawn_blocking(move || {
            let mut client = Client::operator(port)?;
            for (partition, last_id) in (0..PARTITIONS).zip(last_ids) {
                read_all(&mut client, &staging_stream(partition), &last_id.unwrap_or_default())?;
            }
            anyhow::Ok(())
        })
        .await??;
        self.cost(begun.elapsed(), before).await
    }

    /// Drains the streams by a hot-writer that is ready: from renaming the full streams until its group has finished
    /// all of them.
    pub(crate) async fn drain_by_hot_writer(&self, worker: &mut Worker) -> anyhow::Result<Cost> {
        let before = redis_usage(&self.redis).await?;
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

    async fn cost(&self, elapsed: Duration, before: Usage) -> anyhow::Result<Cost> {
        let after = redis_usage(&self.redis).await?;
        let ticks = self.load.ticks as f64;
        Ok(Cost {
            ticks: self.load.ticks,
            seconds: elapsed.as_secs_f64(),
            server_us: (after.cpu_s - before.cpu_s) * 1e6 / ticks,
            commands: (after.commands - before.commands) / ticks,
        })
    }
}

/// Starts a hot-writer and waits until it owns all partitions.
pub(crate) async fn start_hot_writer(bench: &Bench, redis: &RedisServer) -> anyhow::Result<Worker> {
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
