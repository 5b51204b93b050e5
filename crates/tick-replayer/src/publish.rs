//! Publishes ticks to `stream:ticks:<P>` in batches, and retries until Redis has accepted them.
//!
//! The ticks of a batch for one partition are added in one transaction, in order. After a refusal, for instance because
//! the memory is full, the transaction is repeated. After a broken connection its outcome is unknown, and it is
//! repeated as well, because a lost tick is worse than a repeated one: every tick has a trade ID, so a repeated one is
//! counted once.

use anyhow::Context;
use storage_core::config::redis::RedisConfig;
use storage_core::domain::entry::Fields;
use storage_core::domain::heartbeat::Heartbeat;
use storage_core::domain::partition::partition_of;
use storage_core::redis::codec::feeds;
use storage_core::redis::connection::{Connection, explained};
use storage_core::redis::partitions;
use storage_core::redis::stream::{self, Stream};
use storage_core::retry::Retry;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::heartbeats::Heartbeats;
use crate::outgoing::OutgoingTick;

/// Maximum number of heartbeats in a transaction.
const MAX_HEARTBEATS: usize = 1_000;

/// Publisher of ticks, and of the heartbeats of their feed, if it has a name.
pub(crate) struct Publisher {
    heartbeats: Option<Mutex<Heartbeats>>,
    redis: RedisConfig,
    connection: Mutex<Connection>,
    partitions: u16,
    token: CancellationToken,
}

impl Publisher {
    /// Waits for Redis and reads the number of partitions.
    pub(crate) async fn open(config: &RedisConfig, token: &CancellationToken) -> anyhow::Result<Self> {
        let connection = Mutex::new(Connection::ordinary(config));
        let stored = Retry::new("reading the number of partitions from Redis", token)
            .run(async || {
                let stored = partitions::stored(&mut *connection.lock().await).await;
                stored.map_err(|error| explained(error, config))
            })
            .await?;
        Ok(Self {
            heartbeats: None,
            redis: config.clone(),
            connection,
            partitions: partitions::required(stored)?,
            token: token.clone(),
        })
    }

    /// Adds heartbeats of `feed` to the ticks.
    pub(crate) fn with_heartbeats(self, feed: String) -> Self {
        Self {
            heartbeats: Some(Mutex::new(Heartbeats::new(feed))),
            ..self
        }
    }

    /// Ends the feed at `at_us`, if it has a name.
    pub(crate) async fn end_feed(&self, at_us: i64) -> anyhow::Result<()> {
        match &self.heartbeats {
            Some(heartbeats) => {
                let beats = heartbeats.lock().await.end(at_us);
                self.add_heartbeats(&beats).await
            }
            None => Ok(()),
        }
    }

    async fn add_heartbeats(&self, beats: &[Heartbeat]) -> anyhow::Result<()> {
        for beats in beats.chunks(MAX_HEARTBEATS) {
            let entries: Vec<Fields> = beats.iter().map(feeds::entry_fields).collect();
            self.add(Stream::Feeds, &entries).await?;
        }
        Ok(())
    }

    /// Adds `ticks` to the streams of their partitions. Each stream gets its ticks in this order.
    pub(crate) async fn publish(&self, ticks: Vec<OutgoingTick>) -> anyhow::Result<()> {
        let beats = match &self.heartbeats {
            Some(heartbeats) => heartbeats.lock().await.until(&ticks),
            None => Vec::new(),
        };
        let mut by_partition: Vec<Vec<Fields>> = vec![Vec::new(); self.partitions.into()];
        for tick in ticks {
            by_partition[usize::from(partition_of(&tick.symbol, self.partitions))].push(tick.fields);
        }
        for (partition, entries) in (0..).zip(by_partition) {
            if !entries.is_empty() {
                self.add(Stream::Ticks(partition), &entries).await?;
            }
        }
        // After the ticks: a feed that stops has covered only what it has sent.
        self.add_heartbeats(&beats).await
    }

    /// Adds entries to a stream. The first attempt is made even after the shutdown has begun, so that the batch is
    /// completed.
    async fn add(&self, stream: Stream, entries: &[Fields]) -> anyhow::Result<()> {
        let what = format!("adding to {}", stream.key());
        Retry::new(what.clone(), &self.token)
            .start_anyway()
            .run(async || {
                let added = stream::add_all(&mut *self.connection.lock().await, stream, entries).await;
                added.map_err(|error| explained(error, &self.redis))
            })
            .await
            .context(what)
    }
}
