//! Writes the effects of the entries of a partition in an order in which a crash between any two steps loses nothing.
//!
//! 1. Announcements for other components: dead letters, repairs, closed minutes; then the candles that leave
//!    `candle:current:*` or are closed.
//! 2. The open candles, in the order of [`crate::queue`] and within the [budget](crate::budget).
//! 3. The index of open candles; the group's position, once all candles with earlier ticks and the latest ticks are
//!    written; then the removal of expired keys.
//!
//! Every step may be repeated. A step begins only after the steps before it have succeeded for the same ticks: an open
//! candle is written after the announcements of all its ticks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use foldhash::{HashMap, HashSet};
use redis::{Cmd, RedisResult, pipe};
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::duration_ms;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles::{self, ChangedFields};
use storage_core::redis::codec::repairs;
use storage_core::redis::connection::Connection;
use storage_core::redis::functions::{self, Put, PutResult};
use storage_core::redis::hot::{self, Epoch, PUTS_PER_CALL};
use storage_core::redis::keys::{self, Key};
use storage_core::redis::stream::{HOT_WRITER, Stream};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;

use crate::age::Ages;
use crate::batch::Batch;
use crate::budget::{Budget, Grant};
use crate::close::CandleChange;
use crate::config::Config;
use crate::metrics;
use crate::queue::{OpenCandle, Turn, WriteQueue};

/// Minimum TTL of a candle.
const MIN_CANDLE_TTL: Duration = Duration::from_secs(60 * 60);
/// Time for which a displaced candle is kept after the last moment at which it may be amended.
pub(crate) const RECENT_MARGIN: Duration = Duration::from_secs(5 * 60);
/// Part of a TTL by which it is longer than it has to be, so that it begins again only after this part.
const TTL_MARGIN: u32 = 100;
/// Minimum time between two updates of the position.
const POSITION_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of commands or hashes in a pipeline.
const MAX_PIPELINE: usize = 1_000;

/// Writer of one partition. It owns its connection, so that no other command waits for a batch.
pub(crate) struct Writer {
    partition: u16,
    epoch: Epoch,
    ttls: Ttls,
    /// See [`Connection::open_once`].
    conn: Connection,
    budget: Budget,
    ages: Ages,
    queue: WriteQueue,
    /// Symbols in the index of open candles.
    indexed: HashSet<Symbol>,
    /// Position in Redis.
    position: StreamId,
    next_position: Instant,
    /// Batches after the position, oldest first.
    unfinished: VecDeque<UnfinishedBatch>,
    batches: u64,
    /// Number of the last batch whose announcements and closed candles are written.
    written: watch::Sender<u64>,
    /// Number of messages that the publisher has written.
    published: watch::Receiver<u64>,
}

/// TTLs of candles.
struct Ttls {
    /// Time from the end of a bucket until its candle can no longer be amended.
    amend: Duration,
}

/// A batch whose open candles may not all be written.
struct UnfinishedBatch {
    number: u64,
    to: StreamId,
    entries: usize,
    first_read: Option<Instant>,
    latest_messages: u64,
    expired: Vec<Key>,
}

impl Ttls {
    /// Returns the time by which the TTL of an open candle is longer than it has to be.
    fn margin(&self, timeframe: Timeframe) -> Duration {
        self.minimum(timeframe) / TTL_MARGIN
    }

    fn open(&self, timeframe: Timeframe) -> Duration {
        self.minimum(timeframe) + self.margin(timeframe)
    }

    fn recent(&self) -> Duration {
        self.amend + RECENT_MARGIN
    }

    fn minimum(&self, timeframe: Timeframe) -> Duration {
        let bucket = Duration::from_secs(timeframe.seconds().unsigned_abs());
        (bucket + self.amend).max(MIN_CANDLE_TTL)
    }
}

impl Writer {
    /// Creates the writer of a partition whose position is `position` and whose index contains `indexed`.
    pub(crate) fn new(
        config: &Config,
        partition: u16,
        (epoch, indexed): (Epoch, HashSet<Symbol>),
        position: StreamId,
        conn: Connection,
        (budget, ages): (Budget, Ages),
        published: watch::Receiver<u64>,
    ) -> Self {
        Self {
            partition,
            epoch,
            ttls: Ttls {
                amend: config.hot.close_grace + config.hot.amend_window,
            },
            conn,
            budget,
            ages,
            queue: WriteQueue::default(),
            indexed,
            position,
            next_position: Instant::now(),
            unfinished: VecDeque::new(),
            batches: 0,
            written: watch::Sender::new(0),
            published,
        }
    }

    /// Returns the number of the last batch whose announcements and closed candles are written.
    pub(crate) fn written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// Writes the batches that arrive on `batches` until the sender is dropped, and then what is left.
    ///
    /// Announcements and closed candles are written when their batch arrives; open candles when the budget grants it,
    /// in a backlog and at the end without it; the position at intervals. An error ends the writer: everything written
    /// before is correct, and a new owner repeats the rest from the state in Redis.
    pub(crate) async fn run(mut self, mut batches: mpsc::Receiver<Batch>) -> Result<()> {
        let budget = self.budget.clone();
        loop {
            let waiting = self.queue.waiting_since();
            let position_due = self.finished().is_some().then_some(self.next_position);
            tokio::select! {
                biased;
                batch = batches.recv() => match batch {
                    Some(batch) => self.accept(batch).await.context("writing a batch")?,
                    None => break,
                },
                grant = budget.acquire(waiting), if waiting.any() => {
                    self.write_granted(grant).await.context("writing open candles")?;
                }
                () = sleep_until(position_due.unwrap_or(self.next_position).into()), if position_due.is_some() => {
                    self.write_position().await.context("writing the position")?;
                }
            }
        }
        self.write_all_open().await.context("writing open candles")?;
        self.write_position().await.context("writing the position")
    }

    /// Writes the announcements and closed candles of a batch, and adds its open candles to the queue.
    async fn accept(&mut self, mut batch: Batch) -> Result<()> {
        self.batches += 1;
        self.announce(&mut batch).await?;
        let closed = batch.closed.iter().map(|(symbol, change)| self.closed(symbol, change));
        let closed: Vec<Put> = closed.collect();
        for puts in closed.chunks(MAX_PIPELINE) {
            hot::put_all(&mut self.conn, puts).await?;
        }
        // An earlier state of a closed candle must not follow it.
        for (symbol, change) in batch.closed.iter().filter(|(_, change)| change.is_current) {
            self.queue.discard(symbol, change.timeframe);
        }
        let since = batch.first_read.unwrap_or_else(Instant::now);
        for (symbol, change) in batch.open {
            let added = (self.batches, since);
            self.queue
                .push(&symbol, change.timeframe, change.candle, change.changed, added);
        }
        self.index(&batch.symbols).await?;
        self.unfinished.push_back(UnfinishedBatch {
            number: self.batches,
            to: batch.to,
            entries: batch.entries,
            first_read: batch.first_read,
            latest_messages: batch.latest_messages,
            expired: batch.expired,
        });
        self.written.send_replace(self.batches);
        self.budget.set_waiting(self.partition, self.queue.len());
        if batch.is_backlog {
            self.write_all_open().await?;
        }
        Ok(())
    }

    async fn announce(&mut self, batch: &mut Batch) -> RedisResult<()> {
        let letters = std::mem::take(&mut batch.dead_letters).into_iter();
        let repairs = batch.repairs.iter().map(|((symbol, start_us), revision)| {
            functions::announce(
                Stream::Repairs,
                &repairs::entry_fields(&repairs::Repair {
                    symbol: symbol.clone(),
                    start_us: *start_us,
                    revision: *revision,
                }),
            )
        });
        let bases = batch.bases.iter();
        let bases = bases.map(|base| functions::announce(Stream::Repairs, &repairs::base_fields(base)));
        let stream = Stream::Candles(self.partition);
        let sent = batch.closed.iter().filter(|(_, change)| change.must_send);
        let sent =
            sent.map(|(symbol, change)| functions::announce(stream, &candles::entry_fields(symbol, &change.candle)));
        let announcements = letters.chain(repairs).chain(bases).chain(sent).collect();
        execute_all(&mut self.conn, announcements).await
    }

    /// Updates the index of symbols with open candles. A symbol is added after its candles are written, because a
    /// candle that the index names and Redis does not hold counts as lost. Candles that wait add it when they are
    /// written.
    async fn index(&mut self, symbols: &HashMap<Symbol, bool>) -> RedisResult<()> {
        let (mut opened, mut closed) = (Vec::new(), Vec::new());
        for (symbol, is_open) in symbols {
            if !is_open {
                self.queue.remove(symbol);
                if self.indexed.remove(symbol) {
                    closed.push(symbol);
                }
            } else if !self.queue.contains(symbol) && self.indexed.insert(symbol.clone()) {
                opened.push(symbol);
            }
        }
        let opened = (!opened.is_empty()).then(|| self.epoch.mark_open(opened));
        let closed = (!closed.is_empty()).then(|| self.epoch.mark_closed(closed));
        execute_all(&mut self.conn, opened.into_iter().chain(closed).collect()).await
    }

    async fn write_granted(&mut self, grant: Grant) -> RedisResult<()> {
        let candles = self.take_open(PUTS_PER_CALL, grant.turn);
        grant.spend(candles.len());
        self.budget.set_waiting(self.partition, self.queue.len());
        self.write_open(candles).await
    }

    async fn write_all_open(&mut self) -> RedisResult<()> {
        loop {
            let candles = self.take_open(MAX_PIPELINE, Turn::default());
            if candles.is_empty() {
                self.budget.set_waiting(self.partition, 0);
                return Ok(());
            }
            self.write_open(candles).await?;
        }
    }

    /// Takes candles of `turn`, about `count` at most. All candles of a symbol that is not in the index are taken
    /// together.
    fn take_open(&mut self, count: usize, turn: Turn) -> Vec<OpenCandle> {
        let now = Instant::now();
        let ttls = &self.ttls;
        let margin = |timeframe| ttls.margin(timeframe);
        let mut taken = Vec::new();
        while taken.len() < count
            && let Some(first) = self.queue.pop(turn, now, margin)
        {
            if !self.indexed.contains(&first.symbol) {
                let others = Timeframe::ALL.into_iter();
                taken.extend(others.filter_map(|timeframe| self.queue.take(&first.symbol, timeframe, now, margin)));
            }
            taken.push(first);
        }
        taken
    }

    async fn write_open(&mut self, candles: Vec<OpenCandle>) -> RedisResult<()> {
        let puts: Vec<Put> = candles.iter().map(|candle| self.open(candle)).collect();
        let results = hot::put_all(&mut self.conn, &puts).await?;
        let mut whole = Vec::new();
        let mut opened: Vec<&Symbol> = Vec::new();
        for ((candle, put), result) in candles.iter().zip(puts).zip(results) {
            match result {
                PutResult::Written => self
                    .ages
                    .record_candle(candle.timeframe, candle.candle.revision, candle.since),
                PutResult::Outdated => {}
                // The hash has expired, or another client has removed it.
                PutResult::NeedsWhole | PutResult::WasForeign => whole.push(Put {
                    base: None,
                    fields: candles::hash_fields(&candle.candle, false),
                    ..put
                }),
            }
            if self.indexed.insert(candle.symbol.clone()) {
                opened.push(&candle.symbol);
            }
        }
        if !whole.is_empty() {
            hot::put_all(&mut self.conn, &whole).await?;
        }
        let opened = (!opened.is_empty()).then(|| self.epoch.mark_open(opened));
        execute_all(&mut self.conn, opened.into_iter().collect()).await
    }

    /// Returns the number of the first batch with unwritten candles if the position is before that batch; `u64::MAX` if
    /// all are written.
    fn finished(&mut self) -> Option<u64> {
        let first = self.unfinished.front()?.number;
        let before = self.queue.first_batch().unwrap_or(u64::MAX);
        (first < before).then_some(before)
    }

    /// Moves the position past the batches whose candles are all written, once their latest ticks are written, too, and
    /// removes expired keys.
    async fn write_position(&mut self) -> Result<()> {
        self.next_position = Instant::now() + POSITION_INTERVAL;
        let Some(before) = self.finished() else {
            return Ok(());
        };
        let count = self.unfinished.partition_point(|batch| batch.number < before);
        let finished: Vec<UnfinishedBatch> = self.unfinished.drain(..count).collect();
        let entries: usize = finished.iter().map(|batch| batch.entries).sum();
        if entries > 0 {
            let last = finished.last().context("there are entries")?;
            let (to, latest_messages) = (last.to, last.latest_messages);
            let published = self.published.wait_for(|published| *published >= latest_messages).await;
            drop(published.context("the publisher has ended")?);
            let stream = Stream::Ticks(self.partition);
            let at = functions::advance(&mut self.conn, stream, HOT_WRITER, self.position, to, entries).await?;
            ensure!(
                at == to,
                "another client moved the position to {at}; resuming from there"
            );
            self.position = to;
            metrics::BATCH_ENTRIES.record(f64::from(u32::try_from(entries)?));
        }
        let first_read = finished.iter().find_map(|batch| batch.first_read);
        if let Some(first_read) = first_read {
            metrics::BATCH_SECONDS.record(first_read.elapsed().as_secs_f64());
        }
        let expired = finished.iter().flat_map(|batch| &batch.expired);
        let removals = expired.map(hot::remove).collect();
        Ok(execute_all(&mut self.conn, removals).await?)
    }

    fn open(&self, candle: &OpenCandle) -> Put {
        let OpenCandle {
            symbol,
            timeframe,
            candle,
            changed,
            base,
            renews_ttl,
            ..
        } = candle;
        let changed = if base.is_some() { *changed } else { ChangedFields::ALL };
        Put {
            key: keys::candle_current(*timeframe, symbol),
            revision: candle.revision,
            base: *base,
            ttl_ms: millis(self.ttls.open(*timeframe)),
            renews_ttl: *renews_ttl,
            channel: keys::candle_channel(*timeframe, symbol),
            message: candles::message(symbol, candle, false),
            fields: candles::changed_hash_fields(candle, false, changed),
        }
    }

    fn closed(&self, symbol: &Symbol, change: &CandleChange) -> Put {
        let CandleChange {
            timeframe,
            candle,
            is_final,
            is_current,
            ..
        } = change;
        let (key, ttl) = if *is_current {
            (keys::candle_current(*timeframe, symbol), self.ttls.open(*timeframe))
        } else {
            let key = keys::candle_recent(*timeframe, symbol, candle.start_us);
            (key, self.ttls.recent())
        };
        Put {
            key,
            revision: candle.revision,
            base: None,
            ttl_ms: millis(ttl),
            renews_ttl: true,
            channel: keys::candle_channel(*timeframe, symbol),
            message: candles::message(symbol, candle, *is_final),
            fields: candles::hash_fields(candle, *is_final),
        }
    }
}

fn millis(duration: Duration) -> i64 {
    duration_ms(duration).cast_signed()
}

/// Sends commands in pipelines.
async fn execute_all(conn: &mut Connection, commands: Vec<Cmd>) -> RedisResult<()> {
    let mut commands = commands.into_iter().peekable();
    while commands.peek().is_some() {
        let mut pipeline = pipe();
        for command in commands.by_ref().take(MAX_PIPELINE) {
            pipeline.add_command(command).ignore();
        }
        pipeline.exec_async(conn).await?;
    }
    Ok(())
}
