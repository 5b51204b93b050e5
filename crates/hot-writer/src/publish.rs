//! Writes and publishes the latest ticks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use foldhash::HashMap;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::time::duration_ms;
use storage_core::redis::codec::ticks;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions::Put;
use storage_core::redis::{hot, keys};
use tokio::sync::{mpsc, watch};

use crate::age::Ages;
use crate::config::Config;

/// Part of a TTL after which a tick begins it again.
const TTL_PART: u32 = 100;
/// Maximum number of ticks in a pipeline.
const MAX_PIPELINE: usize = 1_000;

/// Publisher of the latest ticks of one partition. It owns its connection, so that a tick does not wait for candles.
pub(crate) struct Publisher {
    conn: Connection,
    ttl: Duration,
    ages: Ages,
    /// Number of messages that are written.
    published: watch::Sender<u64>,
    /// Times at which the TTLs began.
    renewed: HashMap<Symbol, Instant>,
    next_cleanup: Instant,
}

impl Publisher {
    pub(crate) fn new(config: &Config, ages: Ages) -> Self {
        Self {
            conn: Connection::ordinary(&config.redis),
            ttl: config.hot.tick_ttl,
            ages,
            published: watch::Sender::new(0),
            renewed: HashMap::default(),
            next_cleanup: Instant::now(),
        }
    }

    /// Returns the number of messages that are written.
    pub(crate) fn published(&self) -> watch::Receiver<u64> {
        self.published.subscribe()
    }

    /// Writes the ticks that arrive on `latest`, one call after the other, until the sender is dropped. Meanwhile the
    /// sender keeps only the newest tick of each symbol.
    pub(crate) async fn run(mut self, mut latest: mpsc::Receiver<Vec<AcceptedTick>>) -> Result<()> {
        while let Some(ticks) = latest.recv().await {
            let now = Instant::now();
            let puts: Vec<Put> = ticks.iter().map(|tick| self.put(tick, now)).collect();
            for puts in puts.chunks(MAX_PIPELINE) {
                hot::put_all(&mut self.conn, puts)
                    .await
                    .context("writing the latest ticks")?;
            }
            for tick in &ticks {
                self.ages.record_tick(tick.revision);
            }
            self.published.send_modify(|published| *published += 1);
        }
        Ok(())
    }

    fn put(&mut self, accepted: &AcceptedTick, now: Instant) -> Put {
        let symbol = &accepted.tick.symbol;
        let part = self.ttl / TTL_PART;
        if now >= self.next_cleanup {
            self.renewed.retain(|_, renewed| now - *renewed < part);
            self.next_cleanup = now + part;
        }
        let renews_ttl = self.renewed.get(symbol).is_none_or(|renewed| now - *renewed >= part);
        if renews_ttl {
            self.renewed.insert(symbol.clone(), now);
        }
        Put {
            key: keys::tick_latest(symbol),
            revision: accepted.revision,
            base: None,
            ttl_ms: duration_ms(self.ttl).cast_signed(),
            renews_ttl,
            channel: keys::tick_channel(symbol),
            message: ticks::message(accepted),
            fields: ticks::hash_fields(accepted),
        }
    }
}
