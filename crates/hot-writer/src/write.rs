//! Writes the effects of a batch in an order in which a crash between any two steps loses nothing.
//!
//! 1. Announcements for other components: dead letters, repairs, closed minutes, and the candles that leave
//!    `candle:current:*`.
//! 2. The current candles and the latest ticks, which replace the previous ones.
//! 3. The index of open candles, the group's position, and the removal of expired keys.
//!
//! Every step may be repeated, and starts only after the previous step has succeeded.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis::{Cmd, RedisResult, pipe};
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::time::duration_ms;
use storage_core::redis::codec::{candles, dead, repairs, ticks};
use storage_core::redis::connection::Connection;
use storage_core::redis::functions::{self, Expiry};
use storage_core::redis::hot::{self, Epoch};
use storage_core::redis::keys::{self, Key};
use storage_core::redis::stream::{HOT_WRITER, Stream};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::close::{CandleChange, Changes};
use crate::config::Config;
use crate::metrics;
use crate::pace::{BatchPace, MAX_PIPELINE};

/// Minimum TTL of a candle.
const MIN_CANDLE_TTL_MS: i64 = 60 * 60 * 1_000;
/// Time for which a displaced candle is kept after the last moment at which it may be amended.
pub(crate) const RECENT_MARGIN: Duration = Duration::from_secs(5 * 60);
/// Number of entries, or of dead letters, from which a batch is full.
const MAX_ENTRIES: usize = 1_000_000;
const MAX_DEAD_LETTERS: usize = 5_000;

/// The effects of the entries after `from` up to `to`.
pub(crate) struct Batch {
    from: StreamId,
    to: StreamId,
    /// Number of entries.
    entries: usize,
    /// Time at which the first entry was read.
    pub(crate) first_read: Option<Instant>,
    dead_letters: Vec<Cmd>,
    repairs: BTreeMap<(Symbol, i64), Revision>,
    bases: Vec<repairs::Base>,
    /// The latest tick of each symbol with a new one.
    pub(crate) latest: Vec<AcceptedTick>,
    candles: Vec<(Symbol, CandleChange)>,
    expired: Vec<Key>,
    /// Symbols with their first open candle.
    pub(crate) opened: Vec<Symbol>,
    /// Symbols without open candles, which had some before.
    pub(crate) closed: Vec<Symbol>,
    /// Symbols whose state may be removed from memory after this batch, unless a tick arrives meanwhile.
    pub(crate) settled: Vec<Symbol>,
}

impl Batch {
    /// Creates an empty batch.
    pub(crate) fn after(from: StreamId) -> Self {
        Self {
            from,
            to: from,
            entries: 0,
            first_read: None,
            dead_letters: Vec::new(),
            repairs: BTreeMap::new(),
            bases: Vec::new(),
            latest: Vec::new(),
            candles: Vec::new(),
            expired: Vec::new(),
            opened: Vec::new(),
            closed: Vec::new(),
            settled: Vec::new(),
        }
    }

    /// Adds `count` entries up to `to` that were read at `at`.
    pub(crate) fn add_read(&mut self, count: usize, to: StreamId, at: Instant) {
        self.entries += count;
        self.to = to;
        self.first_read.get_or_insert(at);
    }

    /// Returns `true` if the batch has to be written before more is read.
    pub(crate) fn is_full(&self) -> bool {
        self.entries >= MAX_ENTRIES || self.dead_letters.len() >= MAX_DEAD_LETTERS
    }

    /// Adds a dead letter.
    pub(crate) fn add_dead_letter(&mut self, stream: Stream, entry: &Entry, reason: &Rejection) {
        metrics::DEAD_LETTERS.increment(reason.label(), 1);
        let letter = dead::DeadLetter::new(stream, entry, reason);
        self.dead_letters
            .push(functions::announce(Stream::Dead, &dead::entry_fields(&letter)));
    }

    /// Adds a request to compute a minute again from the history, once that has the ticks up to `revision`. A later
    /// request for the same minute replaces it.
    pub(crate) fn add_repair(&mut self, symbol: &Symbol, start_us: i64, revision: Revision) {
        self.repairs.insert((symbol.clone(), start_us), revision);
    }

    /// Adds the changes of a symbol.
    pub(crate) fn add_changes(&mut self, symbol: &Symbol, changes: Changes) {
        for (start_us, revision) in changes.repairs {
            self.add_repair(symbol, start_us, revision);
        }
        for (timeframe, start_us, revision) in changes.bases {
            self.bases.push(repairs::Base {
                symbol: symbol.clone(),
                timeframe,
                start_us,
                revision,
            });
        }
        for (timeframe, start_us) in changes.expired {
            self.expired.push(keys::candle_recent(timeframe, symbol, start_us));
        }
        for change in changes.candles {
            if change.must_send {
                let counter = if change.is_amendment {
                    &metrics::CANDLES_AMENDED
                } else {
                    &metrics::CANDLES_CLOSED
                };
                counter.increment(1);
            }
            self.candles.push((symbol.clone(), change));
        }
    }
}

/// Commands that are built one by one as they are sent.
type Commands<'a> = Box<dyn Iterator<Item = Cmd> + Send + 'a>;

/// Writes the batches of one partition, one at a time.
#[derive(Clone)]
pub(crate) struct Writer {
    partition: u16,
    epoch: Epoch,
    tick_ttl_ms: i64,
    amend_ttl_ms: i64,
    recent_ttl_ms: i64,
    /// Connection of this writer alone, so that other commands do not wait for a batch. See [`Connection::open_once`].
    conn: Arc<Mutex<Connection>>,
}

impl Writer {
    pub(crate) fn new(config: &Config, partition: u16, epoch: Epoch, conn: Connection) -> Self {
        let millis = |duration: Duration| duration_ms(duration).cast_signed();
        let hot = &config.hot;
        Self {
            partition,
            epoch,
            tick_ttl_ms: millis(hot.tick_ttl),
            amend_ttl_ms: millis(hot.close_grace + hot.amend_window),
            recent_ttl_ms: millis(hot.close_grace + hot.amend_window + RECENT_MARGIN),
            conn: Arc::new(Mutex::new(conn)),
        }
    }

    /// Writes and publishes latest ticks.
    pub(crate) async fn publish_latest(self, mut conn: Connection, latest: Vec<AcceptedTick>) -> RedisResult<()> {
        execute(&mut conn, latest.iter().map(|tick| self.latest(tick))).await
    }

    /// Starts to write a batch. The previous batch must have been written.
    pub(crate) fn start(&self, batch: Batch, pace: BatchPace) -> WriteTask {
        let writer = self.clone();
        let task = tokio::spawn(async move {
            let work = writer.write(&batch, &pace).await.context("writing a batch")?;
            if let Some(first_read) = batch.first_read {
                metrics::BATCH_ENTRIES.record(f64::from(u32::try_from(batch.entries)?));
                metrics::BATCH_SECONDS.record(first_read.elapsed().as_secs_f64());
            }
            Ok(WrittenBatch {
                work,
                settled: batch.settled,
            })
        });
        WriteTask(AbortOnDropHandle::new(task))
    }

    /// Writes a batch and moves the position past it. If a step fails, everything written before is correct, and a new
    /// owner repeats the batch from the state in Redis. Returns the time that Redis has worked since the last pause.
    async fn write(&self, batch: &Batch, pace: &BatchPace) -> Result<Duration> {
        let conn = &mut *self.conn.lock().await;
        let candles = || batch.candles.iter().map(|(symbol, change)| (symbol, change));
        let current = candles().filter(|(_, change)| change.is_current);
        let displaced = candles().filter(|(_, change)| !change.is_current);
        let sent = candles().filter(|(_, change)| change.must_send);
        let put = |(symbol, change)| self.candle(symbol, change);

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
        let sent = sent.map(|(symbol, change)| {
            functions::announce(
                Stream::Candles(self.partition),
                &candles::entry_fields(symbol, &change.candle),
            )
        });
        let announcements = batch
            .dead_letters
            .iter()
            .cloned()
            .chain(repairs)
            .chain(bases)
            .chain(sent);
        let announcements = announcements.chain(displaced.map(put));
        let announced = execute_all(conn, None, Box::new(announcements)).await?;

        let latest = batch.latest.iter().map(|tick| self.latest(tick));
        let updated = execute_all(conn, Some(pace), Box::new(latest.chain(current.map(put)))).await?;

        // The index is written after the candles: a candle that the index names and Redis does not hold counts as lost.
        let opened = (!batch.opened.is_empty()).then(|| self.epoch.mark_open(&batch.opened));
        let closed = (!batch.closed.is_empty()).then(|| self.epoch.mark_closed(&batch.closed));
        let finish = opened
            .into_iter()
            .chain(batch.expired.iter().map(hot::remove))
            .chain(closed);
        let finished = execute_all(conn, None, Box::new(finish)).await?;
        if batch.entries > 0 {
            let stream = Stream::Ticks(self.partition);
            let (from, to) = (batch.from, batch.to);
            let at = functions::advance(conn, stream, HOT_WRITER, from, to, batch.entries).await?;
            ensure!(
                at == to,
                "another client moved the position to {at}; resuming from there"
            );
        }
        Ok(announced + updated + finished)
    }

    fn latest(&self, accepted: &AcceptedTick) -> Cmd {
        let symbol = &accepted.tick.symbol;
        functions::put(
            &keys::tick_latest(symbol),
            accepted.revision,
            Expiry::AfterMs(self.tick_ttl_ms),
            Some((&keys::tick_channel(symbol), &ticks::message(accepted))),
            &ticks::hash_fields(accepted),
        )
    }

    fn candle(&self, symbol: &Symbol, change: &CandleChange) -> Cmd {
        let CandleChange {
            timeframe,
            candle,
            is_final,
            ..
        } = change;
        let (key, ttl_ms) = if change.is_current {
            let ttl_ms = timeframe.seconds() * 1_000 + self.amend_ttl_ms;
            (keys::candle_current(*timeframe, symbol), ttl_ms.max(MIN_CANDLE_TTL_MS))
        } else {
            let key = keys::candle_recent(*timeframe, symbol, candle.start_us);
            (key, self.recent_ttl_ms)
        };
        let channel = keys::candle_channel(*timeframe, symbol);
        let message = candles::message(symbol, candle, *is_final);
        functions::put(
            &key,
            candle.revision,
            Expiry::AfterMs(ttl_ms),
            Some((&channel, &message)),
            &candles::hash_fields(candle, *is_final),
        )
    }
}

/// Sends commands in several pipelines. With a pace it pauses between them, so that Redis serves other clients
/// meanwhile. Returns the time that Redis has worked since the last pause.
async fn execute_all(conn: &mut Connection, pace: Option<&BatchPace>, commands: Commands<'_>) -> RedisResult<Duration> {
    let mut commands = commands.peekable();
    let mut work = Duration::ZERO;
    while commands.peek().is_some() {
        if let Some(pause) = pace.and_then(|pace| pace.pause(work)) {
            tokio::time::sleep(pause).await;
            work = Duration::ZERO;
        }
        let begun = Instant::now();
        let count = pace.map_or(MAX_PIPELINE, BatchPace::commands);
        execute(conn, commands.by_ref().take(count)).await?;
        work += begun.elapsed();
    }
    Ok(work)
}

/// Sends commands in one pipeline.
async fn execute(conn: &mut Connection, commands: impl Iterator<Item = Cmd>) -> RedisResult<()> {
    let mut pipeline = pipe();
    for command in commands {
        pipeline.add_command(command).ignore();
    }
    pipeline.exec_async(conn).await
}

/// A batch that is being written; dropping the task aborts it.
pub(crate) struct WriteTask(AbortOnDropHandle<Result<WrittenBatch>>);

/// Result of writing a batch.
pub(crate) struct WrittenBatch {
    /// Time that Redis has worked since the last pause.
    pub(crate) work: Duration,
    /// See [`Batch::settled`].
    pub(crate) settled: Vec<Symbol>,
}

impl WriteTask {
    /// Waits until the batch is written, and sets `task` to `None`. Without a task it waits forever. Cancel safe.
    pub(crate) async fn finish(task: &mut Option<Self>) -> Result<WrittenBatch> {
        let Some(Self(handle)) = task else {
            return std::future::pending().await;
        };
        let written = handle.await;
        *task = None;
        written?
    }
}
