//! Serves one partition: reads its ticks and folds them while the previous batch is being written.
//!
//! All state is restored from Redis, so after any failure the partition is restored and served again.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context, Result};
use foldhash::{HashMap, HashSet};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use redis::RedisResult;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::tick_rules::TickRules;
use storage_core::domain::time::{duration_ms, ms_to_us};
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::clock::now_ms;
use storage_core::redis::connection::{Connection, current_master};
use storage_core::redis::groups::resume;
use storage_core::redis::hot::{self, Epoch};
use storage_core::redis::keys;
use storage_core::redis::lost::Losses;
use storage_core::redis::stream::{HOT_WRITER, Stream};
use storage_core::redis::stream_reader::StreamReader;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::decode::{DecodedTick, Decoder, does_not_fit};
use crate::dedup::{Dedup, TradeId};
use crate::fold::{Folded, Rules, SymbolState};
use crate::metrics::{self, Counts};
use crate::pace::Pace;
use crate::read::{BLOCK, Read, ReadAhead};
use crate::restore::{self, LostState};
use crate::write::{Batch, WriteTask, Writer, WrittenBatch};

/// Minimum ratio of the time between two checks of all symbols for idle ones to the duration of a check.
const IDLE_CHECK_FACTOR: u32 = 10;

/// Maximum number of pipelines with latest ticks that wait for an answer.
const MAX_PENDING_LATEST: usize = 8;

/// Maximum number of bases that are looked up in one pipeline.
const MAX_BASES: usize = 1_000;

/// Maximum number of symbols in a log message.
const MAX_LOGGED_SYMBOLS: usize = 5;

/// State of a partition that this replica owns.
pub(crate) struct Partition {
    config: Config,
    decoder: Decoder,
    rules: Rules,
    conn: Connection,
    writer: Writer,
    dedup: Dedup,
    symbols: HashMap<Symbol, SymbolState>,
    lost: LostState,
    /// Incomplete candles whose base was requested.
    awaited: VecDeque<(Symbol, Timeframe, i64)>,
    next_base_lookup: Instant,
    /// Symbols in the index of open candles, after the batch that is being written.
    indexed: HashSet<Symbol>,
    /// Symbols that have changed since the last batch.
    changed: Vec<Symbol>,
    /// Symbols whose latest tick has not been written.
    unpublished: Vec<Symbol>,
    /// The batch to write next.
    batch: Batch,
    pace: Pace,
    /// The last entry that was folded.
    position: StreamId,
    /// Time of the last read.
    last_read: Instant,
    next_idle_check: Instant,
}

impl Partition {
    /// Restores the state of a partition from Redis.
    pub(crate) async fn restore(config: &Config, partition: u16) -> Result<Self> {
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
        };
        let decoder = Decoder::new(tick_rules, &mut conn)
            .await
            .context("reading volume decimals")?;
        let rules = Rules::new(settings.close_grace, settings.amend_window, settings.dedup_window);
        let indexed = open.iter().cloned().collect();
        let lost = LostState::load(&mut conn, partition, position, config)
            .await
            .context("reading the time since which Redis holds every candle")?;
        let mut symbols: HashMap<Symbol, SymbolState> = HashMap::default();
        for mut state in restore::open_states(&mut conn, open, &rules)
            .await
            .context("reading the open candles")?
        {
            lost.mark_open(&mut state);
            symbols.insert(state.symbol.clone(), state);
        }
        let window = restore::dedup_window(&mut conn, &decoder, position, settings.dedup_window, &symbols, &rules)
            .await
            .context("reading the trades of the dedup window")?;
        let now = Instant::now();
        let mut partition = Self {
            rules,
            writer: Writer::new(config, partition, epoch, conn),
            decoder,
            dedup: window.trades,
            symbols,
            lost,
            awaited: VecDeque::new(),
            next_base_lookup: now,
            indexed,
            changed: Vec::new(),
            unpublished: Vec::new(),
            batch: Batch::after(position),
            pace: Pace::new(now, config.stream.partitions),
            position,
            last_read: now,
            next_idle_check: now + BLOCK,
            conn: Connection::ordinary(&config.redis),
            config: config.clone(),
        };
        for tick in window.lost {
            partition.refold(&tick);
        }
        partition.report_awaited();
        Ok(partition)
    }

    /// Reads, folds and writes until `token` is cancelled, then writes what was folded. After an error the partition
    /// has to be restored again.
    pub(crate) async fn serve(&mut self, losses: Losses, token: &CancellationToken) -> Result<()> {
        let stream = Stream::Ticks(self.decoder.rules.partition);
        let reader = StreamReader::new(&self.config.redis, stream, self.position, BLOCK);
        let reader = reader.reporting_losses(&self.config.redis, HOT_WRITER, losses);
        let mut ahead = ReadAhead::start(reader, self.config.hot.batch_entries);
        let mut writing: Option<WriteTask> = None;
        let mut pending_latest: FuturesUnordered<BoxFuture<'static, RedisResult<()>>> = FuturesUnordered::new();
        loop {
            let is_full = writing.is_some() && self.batch.is_full();
            let due = self.due().filter(|_| writing.is_none());
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                done = WriteTask::finish(&mut writing) => self.finish_batch(done?),
                Some(written) = pending_latest.next() => written.context("writing the latest ticks")?,
                read = ahead.next(), if !is_full => self.process(read?).await?,
                () = tokio::time::sleep_until(due.unwrap_or(self.last_read).into()), if due.is_some() => {}
            }
            if !self.pace.is_behind() && !self.unpublished.is_empty() && pending_latest.len() < MAX_PENDING_LATEST {
                let latest = self.take_latest();
                pending_latest.push(Box::pin(self.writer.clone().publish_latest(self.conn.clone(), latest)));
            }
            self.join_bases().await.context("reading restored candles")?;
            if writing.is_none() {
                writing = self.start_batch_if_due().await?;
            }
        }
        while let Some(written) = pending_latest.next().await {
            written.context("writing the latest ticks")?;
        }
        self.pace.end();
        if writing.is_some() {
            let done = WriteTask::finish(&mut writing).await?;
            self.finish_batch(done);
        }
        writing = Some(self.start_batch(None));
        WriteTask::finish(&mut writing).await?;
        Ok(())
    }

    /// Folds the entries of a read.
    async fn process(&mut self, read: Read) -> Result<()> {
        let Read { entries, at } = read;
        self.last_read = at;
        self.pace.read(at, entries.len() == self.config.hot.batch_entries);
        let Some(last) = entries.last().map(|entry| entry.id) else {
            return Ok(());
        };
        self.decoder
            .refresh_decimals(&mut self.conn)
            .await
            .context("reading volume decimals")?;
        self.restore_symbols(&entries).await.context("reading candles")?;

        let mut counts = Counts::default();
        let mut are_decimals_new = false;
        for entry in &entries {
            let mut folded = self.fold(entry, &mut counts);
            if !are_decimals_new && folded.as_ref().is_err_and(does_not_fit) {
                self.decoder
                    .read_decimals(&mut self.conn)
                    .await
                    .context("reading volume decimals")?;
                are_decimals_new = true;
                folded = self.fold(entry, &mut counts);
            }
            if let Err(reason) = folded {
                let stream = Stream::Ticks(self.decoder.rules.partition);
                self.batch.add_dead_letter(stream, entry, &reason);
            }
        }
        counts.report(entries.len());
        self.position = last;
        self.batch.add_read(entries.len(), last, at);
        Ok(())
    }

    fn fold(&mut self, entry: &Entry, counts: &mut Counts) -> Result<(), Rejection> {
        let decoded = self.decoder.decode(entry)?;
        let accepted = &decoded.accepted;
        let symbol = &accepted.tick.symbol;
        let trade_id = accepted.dedup_id().map(|id| TradeId::parse(&id));
        let now_ms = accepted.revision.stream_id().ms;
        let trades = trade_id.map(|id| (self.dedup.of(symbol), id));
        if trades.as_ref().is_some_and(|(trades, id)| trades.contains(*id, now_ms)) {
            counts.duplicate += 1;
            // The first entry may have been too late for its minute, and may then not have fitted the minute in the
            // history.
            if accepted.origin != accepted.revision.stream_id() {
                let start_us = Timeframe::M1.bucket_start_us(accepted.tick.ts_us);
                self.batch.add_repair(symbol, start_us, accepted.revision);
            }
            return Ok(());
        }
        let state = self
            .symbols
            .entry(symbol.clone())
            .or_insert_with(|| SymbolState::new(symbol.clone()));
        let folded = state.fold(&decoded, &self.rules).map_err(|error| {
            let minute = state.series[Timeframe::M1 as usize].at_mut(Timeframe::M1, accepted.tick.ts_us);
            let volume = minute.map_or(Decimal::ZERO, |tracked| tracked.candle.volume);
            accepted.tick.lots_rejection(volume, error, decoded.decimals)
        })?;
        // The trade ID is added after the fold has succeeded. Otherwise a requeued dead letter would be dropped as a
        // duplicate of itself.
        if let Some((trades, id)) = trades {
            trades.insert(id, now_ms);
        }
        match folded {
            Folded::Counted => counts.folded += 1,
            Folded::TooLate { start_us } => {
                counts.repaired += 1;
                self.batch.add_repair(symbol, start_us, accepted.revision);
            }
        }
        counts.rounded += u64::from(decoded.rounded);
        mark_changed(state, &mut self.changed);
        if accepted.tick.ts_us == state.watermark_us {
            if state.latest.is_none() {
                self.unpublished.push(symbol.clone());
            }
            state.latest = Some(decoded.accepted);
        }
        Ok(())
    }

    /// Folds a tick from before the position again because Redis has lost its minute.
    fn refold(&mut self, tick: &DecodedTick) {
        let Some(state) = self.symbols.get_mut(&tick.accepted.tick.symbol) else {
            return;
        };
        // A quantity that does not fit is a dead letter already.
        if state.refold(tick, &self.rules).is_ok() {
            mark_changed(state, &mut self.changed);
        }
    }

    /// Looks up requested bases every [`BLOCK`], and joins those that aggregator-admin has written.
    async fn join_bases(&mut self) -> RedisResult<()> {
        if self.awaited.is_empty() || Instant::now() < self.next_base_lookup {
            return Ok(());
        }
        let requested: Vec<_> = self.awaited.drain(..self.awaited.len().min(MAX_BASES)).collect();
        let keys: Vec<_> = requested
            .iter()
            .map(|(symbol, timeframe, start_us)| keys::candle_restored(*timeframe, symbol, *start_us))
            .collect();
        let bases = hot::bases(&mut self.conn, &keys).await?;
        let mut joined = 0;
        for ((symbol, timeframe, start_us), base) in requested.into_iter().zip(bases) {
            let Some(state) = self.symbols.get_mut(&symbol) else {
                continue;
            };
            let has_joined = base.is_some_and(|base| state.join_base(timeframe, start_us, base.revision, base.candle));
            if has_joined {
                joined += 1;
                mark_changed(state, &mut self.changed);
            } else if state.awaits_base(timeframe, start_us) {
                self.awaited.push_back((symbol, timeframe, start_us));
            }
        }
        self.next_base_lookup = Instant::now() + BLOCK;
        let partition = self.decoder.rules.partition;
        if joined > 0 {
            metrics::CANDLES_RESTORED.increment(joined);
            tracing::info!(partition, candles = joined, "restored candles from the history");
        }
        self.report_awaited();
        Ok(())
    }

    fn report_awaited(&self) {
        metrics::CANDLES_AWAITED.set(
            &self.decoder.rules.partition.to_string(),
            f64::from(u32::try_from(self.awaited.len()).unwrap_or(u32::MAX)),
        );
    }

    /// Adds candles to those that wait for their base, and logs them.
    fn add_awaited(&mut self, bases: Vec<(Symbol, Timeframe, i64)>) {
        if bases.is_empty() {
            return;
        }
        let mut symbols: Vec<&str> = bases.iter().map(|(symbol, ..)| symbol.as_str()).collect();
        symbols.dedup();
        tracing::warn!(
            partition = self.decoder.rules.partition,
            candles = bases.len(),
            symbols = symbols[..symbols.len().min(MAX_LOGGED_SYMBOLS)].join(" "),
            "Redis may have lost the first ticks of candles; they are published once aggregator-admin has restored them"
        );
        metrics::CANDLES_INCOMPLETE.increment(u64::try_from(bases.len()).unwrap_or(u64::MAX));
        self.awaited.extend(bases);
        self.report_awaited();
    }

    /// Starts to write a batch if it is due or full. An idle check, which closes the candles of idle symbols, is due
    /// periodically.
    async fn start_batch_if_due(&mut self) -> Result<Option<WriteTask>> {
        let now = Instant::now();
        // A batch that is not due yet is not written early because of idle symbols.
        if now >= self.next_idle_check && self.due().is_none_or(|due| due <= now) {
            let idle_us = self.idle_until_us().await.context("reading the clock")?;
            let task = self.start_batch(Some(idle_us));
            self.next_idle_check = now + BLOCK.max(now.elapsed() * IDLE_CHECK_FACTOR);
            return Ok(Some(task));
        }
        let is_due = self.due().is_some_and(|due| due <= now);
        Ok((is_due || self.batch.is_full()).then(|| self.start_batch(None)))
    }

    /// Returns the time at which the batch is due, unless it is empty.
    fn due(&self) -> Option<Instant> {
        let first_read = self.batch.first_read?;
        Some(self.pace.due(first_read, self.changed.len()))
    }

    /// Returns the time, in µs since 1970 by the clock of Redis, before which every accepted entry has been read: the
    /// time of the last read, or in a backlog the time of its last entry.
    async fn idle_until_us(&mut self) -> Result<i64> {
        let until_ms = if !self.pace.is_behind() {
            let now_ms = now_ms(&mut self.conn).await?;
            now_ms.saturating_sub(duration_ms(self.last_read.elapsed()))
        } else {
            self.position.ms
        };
        Ok(ms_to_us(until_ms))
    }

    /// Starts to write the changes of the changed symbols or, with `idle_us`, of all symbols.
    fn start_batch(&mut self, idle_us: Option<i64>) -> WriteTask {
        let mut batch = std::mem::replace(&mut self.batch, Batch::after(self.position));
        batch.latest = self.take_latest();
        let changed = std::mem::take(&mut self.changed);
        let symbols = match idle_us {
            None => changed,
            Some(idle_us) => {
                self.dedup
                    .remove_expired(u64::try_from(idle_us / 1_000).unwrap_or_default());
                self.symbols.keys().cloned().collect()
            }
        };
        let mut bases = Vec::new();
        for symbol in symbols {
            let Some(state) = self.symbols.get_mut(&symbol) else {
                continue;
            };
            state.is_changed = false;
            let changes = state.take_changes(&self.rules, idle_us);
            let requested = changes.bases.iter();
            bases.extend(requested.map(|(timeframe, start_us, _)| (symbol.clone(), *timeframe, *start_us)));
            if !changes.all_closed {
                if self.indexed.insert(symbol.clone()) {
                    batch.opened.push(symbol.clone());
                }
            } else {
                if self.indexed.remove(&symbol) {
                    batch.closed.push(symbol.clone());
                }
                if idle_us.is_some() {
                    batch.settled.push(symbol.clone());
                }
            }
            batch.add_changes(&symbol, changes);
        }
        self.add_awaited(bases);
        self.writer.start(batch, self.pace.begin())
    }

    /// Takes the latest ticks that have not been written.
    fn take_latest(&mut self) -> Vec<AcceptedTick> {
        let unpublished = std::mem::take(&mut self.unpublished).into_iter();
        unpublished
            .filter_map(|symbol| self.symbols.get_mut(&symbol)?.latest.take())
            .collect()
    }

    /// Restores the symbols of `entries` that are not in memory.
    async fn restore_symbols(&mut self, entries: &[Entry]) -> RedisResult<()> {
        let names = entries.iter().filter_map(|entry| entry.optional("symbol"));
        let names = names.filter_map(|name| std::str::from_utf8(name).ok());
        let unknown = names.filter(|name| !self.symbols.contains_key(*name));
        let unknown: HashSet<Symbol> = unknown.filter_map(|name| name.parse().ok()).collect();
        let unknown = unknown.into_iter().collect();
        for mut state in restore::closed_states(&mut self.conn, unknown, &self.rules).await? {
            self.lost.mark_closed(&mut state);
            self.symbols.insert(state.symbol.clone(), state);
        }
        Ok(())
    }

    /// Paces the next batch after one was written, and removes the symbols that had no open candles in it and still
    /// have none.
    fn finish_batch(&mut self, written: WrittenBatch) {
        for symbol in written.settled {
            if self.symbols.get(&symbol).is_some_and(SymbolState::is_settled) {
                self.symbols.remove(&symbol);
            }
        }
        self.pace.written(Instant::now(), written.work);
        metrics::SYMBOLS.set(
            &self.decoder.rules.partition.to_string(),
            f64::from(u32::try_from(self.symbols.len()).unwrap_or(u32::MAX)),
        );
    }
}

/// Adds a symbol to the changed ones.
fn mark_changed(state: &mut SymbolState, changed: &mut Vec<Symbol>) {
    if !std::mem::replace(&mut state.is_changed, true) {
        changed.push(state.symbol.clone());
    }
}
