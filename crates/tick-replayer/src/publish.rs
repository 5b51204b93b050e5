//! Publishing: ticks into `stream:ticks:<P>`, in batches, and again until Redis has them.
//!
//! What a batch has for a partition goes in as one transaction, in order: all of it or nothing. So after a refusal,
//! such as a full memory, it is simply sent again. After a broken connection nobody knows whether Redis had taken it;
//! it is sent again as well, as losing ticks is worse. Then a tick with a trade id is counted once all the same, and
//! one without an id twice.

use anyhow::Context;
use storage_core::config::Misconfigured;
use storage_core::config::redis::RedisConfig;
use storage_core::domain::partition::partition_of;
use storage_core::redis::connection::{Connection, explained};
use storage_core::redis::partitions;
use storage_core::redis::stream::{self, Fields, Stream};
use storage_core::retry::Retry;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::outgoing::Outgoing;

/// The way into the streams.
pub(crate) struct Publisher {
    redis: RedisConfig,
    connection: Mutex<Connection>,
    partitions: u16,
    token: CancellationToken,
}

impl Publisher {
    /// Waits for Redis and asks it for the number of partitions.
    ///
    /// # Errors
    /// When Redis refuses, holds no number of partitions, or `token` was cancelled.
    pub(crate) async fn open(config: &RedisConfig, token: &CancellationToken) -> anyhow::Result<Self> {
        let connection = Mutex::new(Connection::ordinary(config));
        let stored = Retry::new("reading the number of partitions from Redis", token)
            .run(async || {
                let stored = partitions::stored(&mut *connection.lock().await).await;
                stored.map_err(|error| explained(error, config))
            })
            .await?;
        let missing = || Misconfigured::new("Redis holds no number of partitions; run `aggregator-admin migrate`");
        let partitions = stored.filter(|partitions| *partitions > 0).ok_or_else(missing)?;
        Ok(Self {
            redis: config.clone(),
            connection,
            partitions,
            token: token.clone(),
        })
    }

    /// Adds `ticks` to the streams of their partitions, each stream's in this order.
    ///
    /// # Errors
    /// When Redis refuses for good, or while it was waited for a shutdown was asked for.
    pub(crate) async fn publish(&self, ticks: impl IntoIterator<Item = Outgoing>) -> anyhow::Result<()> {
        let mut by_partition: Vec<Vec<Fields>> = vec![Vec::new(); self.partitions.into()];
        for tick in ticks {
            by_partition[usize::from(partition_of(&tick.symbol, self.partitions))].push(tick.fields);
        }
        for (partition, entries) in (0..).zip(by_partition) {
            if !entries.is_empty() {
                self.add(Stream::Ticks(partition), &entries).await?;
            }
        }
        Ok(())
    }

    async fn add(&self, stream: Stream, entries: &[Fields]) -> anyhow::Result<()> {
        let what = format!("adding ticks to {}", stream.key());
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
