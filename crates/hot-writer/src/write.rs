//! Writing what a batch has led to, in an order in which a crash between any two steps loses nothing.
//!
//! 1. What others must hear of: dead letters, repairs, closed minutes, and the candles that leave `candle:current:*`.
//! 2. The current candles and the latest ticks, which take the place of what was there before.
//! 3. The index of open candles, the group's position, and what is not needed any more.
//!
//! Everything of one step may be repeated, and a later step follows only when the one before has succeeded.

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
use storage_core::redis::codec::{candles, dead, repairs, ticks};
use storage_core::redis::connection::Connection;
use storage_core::redis::functions::{self, Expiry};
use storage_core::redis::hot::{self, Term};
use storage_core::redis::keys::{self, Key};
use storage_core::redis::stream::{HOT_WRITER, Stream};
use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;

use crate::close::{Change, Changes};
use crate::config::Config;
use crate::metrics;
use crate::pace::{BatchPace, COMMANDS_AT_ONCE};

/// A candle's shortest TTL, in ms.
const MIN_CANDLE_TTL_MS: i64 = 60 * 60 * 1_000;
/// How much longer than it may be amended a displaced candle stays.
pub(crate) const RECENT_MARGIN: Duration = Duration::from_secs(5 * 60);
/// So many entries, or dead letters, are not left waiting for those before them to be written.
const MANY_ENTRIES: usize = 1_000_000;
const MANY_LETTERS: usize = 5_000;

/// What a batch of entries leads to.
pub(crate) struct Writes {
    from: StreamId,
    to: StreamId,
    /// How many entries lie between.
    entries: usize,
    /// When the first of them had been read.
    pub(crate) first_read: Option<Instant>,
    letters: Vec<Cmd>,
    repairs: BTreeMap<(Symbol, i64), Revision>,
    bases: Vec<repairs::Base>,
    /// The newest ticks of their symbols.
    pub(crate) latest: Vec<AcceptedTick>,
    candles: Vec<(Symbol, Change)>,
    expired: Vec<Key>,
    /// Symbols that have open candles now, and those that haven't any more.
    pub(crate) opened: Vec<Symbol>,
    pub(crate) closed: Vec<Symbol>,
    /// Symbols to forget once this is written, if nothing comes in between.
    pub(crate) settled: Vec<Symbol>,
}

impl Writes {
    /// A batch of the entries after `from`.
    pub(crate) fn after(from: StreamId) -> Self {
        Self {
            from,
            to: from,
            entries: 0,
            first_read: None,
            letters: Vec::new(),
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

    /// Notes that `count` more entries belong to the batch, the last of them `to`, which had been read at `at`.
    pub(crate) fn read(&mut self, count: usize, to: StreamId, at: Instant) {
        self.entries += count;
        self.to = to;
        self.first_read.get_or_insert(at);
    }

    /// Whether the batch has become so large that it is better written before more is read.
    pub(crate) fn are_many(&self) -> bool {
        self.entries >= MANY_ENTRIES || self.letters.len() >= MANY_LETTERS
    }

    /// An entry that can't be used.
    pub(crate) fn dead_letter(&mut self, stream: Stream, entry: &Entry, reason: &Rejection) {
        metrics::DEAD_LETTERS.increment(reason.label(), 1);
        let letter = dead::DeadLetter::new(stream, entry, reason);
        self.letters
            .push(functions::announce(Stream::Dead, &dead::entry_fields(&letter)));
    }

    /// A minute that must be computed again from the history, which holds everything up to `revision` then. One entry a batch
    /// is enough.
    pub(crate) fn repair(&mut self, symbol: &Symbol, start_us: i64, revision: Revision) {
        self.repairs.insert((symbol.clone(), start_us), revision);
    }

    /// What has changed in a symbol's candles.
    pub(crate) fn changes(&mut self, symbol: &Symbol, changes: Changes) {
        for (start_us, revision) in changes.repairs {
            self.repair(symbol, start_us, revision);
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

/// Commands, each built when its turn comes.
type Commands<'a> = Box<dyn Iterator<Item = Cmd> + Send + 'a>;

/// Writes the batches of one partition, one after the other.
#[derive(Clone)]
pub(crate) struct Writer {
    partition: u16,
    term: Term,
    tick_ttl_ms: i64,
    amend_ttl_ms: i64,
    recent_ttl_ms: i64,
    /// One of its own: others do not wait for a batch. See [`Connection::open_once`].
    conn: Arc<Mutex<Connection>>,
}

impl Writer {
    pub(crate) fn new(config: &Config, partition: u16, term: Term, conn: Connection) -> Self {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4);
        let hot = &config.hot;
        Self {
            partition,
            term,
            tick_ttl_ms: millis(hot.tick_ttl),
            amend_ttl_ms: millis(hot.close_grace + hot.amend_window),
            recent_ttl_ms: millis(hot.close_grace + hot.amend_window + RECENT_MARGIN),
            conn: Arc::new(Mutex::new(conn)),
        }
    }

    /// Shows the newest ticks of their symbols.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub(crate) async fn show(self, mut conn: Connection, latest: Vec<AcceptedTick>) -> RedisResult<()> {
        execute(&mut conn, latest.iter().map(|tick| self.latest(tick))).await
    }

    /// Begins to write a batch, after the one before has ended.
    pub(crate) fn begin(&self, writes: Writes, pace: BatchPace) -> Writing {
        let writer = self.clone();
        let task = tokio::spawn(async move {
            let work = writer.write(&writes, &pace).await.context("writing a batch")?;
            if let Some(first_read) = writes.first_read {
                metrics::BATCH_ENTRIES.record(f64::from(u32::try_from(writes.entries)?));
                metrics::BATCH_SECONDS.record(first_read.elapsed().as_secs_f64());
            }
            Ok(Written {
                work,
                settled: writes.settled,
            })
        });
        Writing(AbortOnDropHandle::new(task))
    }

    /// Writes everything and moves the position over the batch. When a step fails, what has been written by then is right, and
    /// repeating the batch from what Redis holds completes it. Returns how long Redis has worked on it since the last pause.
    async fn write(&self, writes: &Writes, pace: &BatchPace) -> Result<Duration> {
        let conn = &mut *self.conn.lock().await;
        let candles = || writes.candles.iter().map(|(symbol, change)| (symbol, change));
        let current = candles().filter(|(_, change)| change.is_current);
        let displaced = candles().filter(|(_, change)| !change.is_current);
        let sent = candles().filter(|(_, change)| change.must_send);
        let put = |(symbol, change)| self.candle(symbol, change);

        let repairs = writes.repairs.iter().map(|((symbol, start_us), revision)| {
            functions::announce(
                Stream::Repairs,
                &repairs::entry_fields(&repairs::Repair {
                    symbol: symbol.clone(),
                    start_us: *start_us,
                    revision: *revision,
                }),
            )
        });
        let bases = writes.bases.iter();
        let bases = bases.map(|base| functions::announce(Stream::Repairs, &repairs::base_fields(base)));
        let sent = sent.map(|(symbol, change)| {
            functions::announce(
                Stream::Candles(self.partition),
                &candles::entry_fields(symbol, &change.candle),
            )
        });
        let announcements = writes.letters.iter().cloned().chain(repairs).chain(bases).chain(sent);
        let announcements = announcements.chain(displaced.map(put));
        let announced = execute_all(conn, None, Box::new(announcements)).await?;

        let latest = writes.latest.iter().map(|tick| self.latest(tick));
        let shown = execute_all(conn, Some(pace), Box::new(latest.chain(current.map(put)))).await?;

        // Not before the candles: an owner takes what the index names and Redis does not hold for lost.
        let opened = (!writes.opened.is_empty()).then(|| self.term.opened(&writes.opened));
        let closed = (!writes.closed.is_empty()).then(|| self.term.closed(&writes.closed));
        let finish = opened
            .into_iter()
            .chain(writes.expired.iter().map(hot::remove))
            .chain(closed);
        let finished = execute_all(conn, None, Box::new(finish)).await?;
        if writes.entries > 0 {
            let stream = Stream::Ticks(self.partition);
            let (from, to) = (writes.from, writes.to);
            let at = functions::advance(conn, stream, HOT_WRITER, from, to, writes.entries).await?;
            ensure!(at == to, "somebody else has moved the position to {at}");
        }
        Ok(announced + shown + finished)
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

    fn candle(&self, symbol: &Symbol, change: &Change) -> Cmd {
        let Change {
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

/// Sends commands, part by part at a pace, where there is one, so that others get their turn. Returns how long Redis has worked since the
/// last pause.
async fn execute_all(conn: &mut Connection, pace: Option<&BatchPace>, commands: Commands<'_>) -> RedisResult<Duration> {
    let mut commands = commands.peekable();
    let mut work = Duration::ZERO;
    while commands.peek().is_some() {
        if let Some(pause) = pace.and_then(|pace| pace.pause(work)) {
            tokio::time::sleep(pause).await;
            work = Duration::ZERO;
        }
        let begun = Instant::now();
        let count = pace.map_or(COMMANDS_AT_ONCE, BatchPace::commands);
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

/// A batch that is being written; given up when this is dropped.
pub(crate) struct Writing(AbortOnDropHandle<Result<Written>>);

/// A batch that was written.
pub(crate) struct Written {
    /// How long Redis has worked on it since the last pause.
    pub(crate) work: Duration,
    /// See [`Writes::settled`].
    pub(crate) settled: Vec<Symbol>,
}

impl Writing {
    /// Waits until the batch, where there is one, is written; then there is none any more. May be dropped before it has ended.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub(crate) async fn end(writing: &mut Option<Self>) -> Result<Written> {
        let Some(Self(task)) = writing else {
            return std::future::pending().await;
        };
        let written = task.await;
        *writing = None;
        written?
    }
}
