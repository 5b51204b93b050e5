//! Serves one partition by four tasks, each of which owns its state and its connection:
//!
//! ```text
//! read ──entries──▶ fold ──latest ticks──▶ publish
//!                       └──batches──▶ write
//! ```
//!
//! All state is restored from Redis, so after any failure the partition is restored and served again.

use std::time::Instant;

use anyhow::{Context, Result};
use foldhash::HashSet;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick_rules::TickRules;
use storage_core::redis::clock::now_ms;
use storage_core::redis::connection::{Connection, current_master};
use storage_core::redis::groups::resume;
use storage_core::redis::hot::Epoch;
use storage_core::redis::lost::Losses;
use storage_core::redis::stream::{HOT_WRITER, Stream};
use storage_core::redis::stream_reader::StreamReader;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::age::Ages;
use crate::budget::Budget;
use crate::config::Config;
use crate::decode::Decoder;
use crate::fold::Rules;
use crate::fold_task::{FoldTask, Restored};
use crate::publish::Publisher;
use crate::read::{BLOCK, read};
use crate::restore::{self, LostState};
use crate::write::Writer;

/// A partition that this replica owns, as restored from Redis.
pub(crate) struct Partition {
    config: Config,
    reader: StreamReader,
    folding: FoldTask,
    publisher: Publisher,
    writer: Writer,
}

impl Partition {
    /// Restores the state of a partition from Redis.
    pub(crate) async fn restore(config: &Config, partition: u16, budget: Budget, ages: Ages) -> Result<Self> {
        // All reads and writes go to the same server, even if the Sentinels elect another master meanwhile.
        let redis = current_master(&config.redis)
            .await
            .context("finding the master of Redis")?;
        let config = &Config {
            redis,
            ..config.clone()
        };
        let mut conn = Connection::open_once(&config.redis)
            .await
            .context("connecting to Redis")?;
        let stream = Stream::Ticks(partition);
        let position = resume(&mut conn, stream, HOT_WRITER)
            .await
            .context("reading the position")?;
        let settings = &config.hot;
        let (epoch, open) = Epoch::begin(&mut conn, partition)
            .await
            .context("reading the open candles")?;
        let tick_rules = TickRules {
            partition,
            partitions: config.stream.partitions,
            max_future: config.stream.max_future,
            before_1973: config.stream.before_1973,
        };
        let decoder = Decoder::new(tick_rules, &mut conn)
            .await
            .context("reading the properties of symbols")?;
        let rules = Rules::new(settings.close_grace, settings.amend_window, settings.dedup_window);
        let open: HashSet<Symbol> = open.into_iter().collect();
        let lost = LostState::load(&mut conn, partition, position, config)
            .await
            .context("reading the time since which Redis holds every candle")?;
        let window = restore::dedup_window(&mut conn, &decoder, position, settings.dedup_window, &open, &rules)
            .await
            .context("reading the trades of the dedup window")?;
        let asked = Instant::now();
        let now_ms = now_ms(&mut conn).await.context("reading the clock")?;
        ages.set_clock(now_ms, asked.elapsed());
        let publisher = Publisher::new(config, ages.clone());
        let writer = Writer::new(
            config,
            partition,
            (epoch, open.clone()),
            position,
            conn,
            (budget, ages.clone()),
            publisher.published(),
        );
        let restored = Restored {
            decoder,
            rules,
            lost,
            open,
            window,
            position,
        };
        Ok(Self {
            reader: StreamReader::new(&config.redis, stream, position, BLOCK),
            folding: FoldTask::new(config, restored, ages, writer.written()),
            publisher,
            writer,
            config: config.clone(),
        })
    }

    /// Serves the partition until `token` is cancelled and everything that was read is written. After an error the
    /// partition has to be restored again.
    ///
    /// The reader ends when `token` is cancelled. The end of a task closes its channels, and so ends the next one,
    /// which first handles what it has received.
    pub(crate) async fn serve(self, losses: Losses, token: &CancellationToken) -> Result<()> {
        let Self {
            config,
            reader,
            folding,
            publisher,
            writer,
        } = self;
        let reader = reader.reporting_losses(&config.redis, HOT_WRITER, losses);
        // One message in each channel keeps both of its tasks busy.
        let (reads, read_entries) = mpsc::channel(1);
        let (latest, latest_ticks) = mpsc::channel(1);
        let (batches, batches_to_write) = mpsc::channel(1);
        let reading = tokio::spawn(read(reader, config.hot.batch_entries, reads, token.clone()));
        let folding = tokio::spawn(folding.run(read_entries, latest, batches));
        let publishing = tokio::spawn(publisher.run(latest_ticks));
        let writing = tokio::spawn(writer.run(batches_to_write));
        let [reading, folding, publishing, writing] =
            [reading, folding, publishing, writing].map(|task| async { AbortOnDropHandle::new(task).await? });
        tokio::try_join!(reading, folding, publishing, writing)?;
        Ok(())
    }
}
