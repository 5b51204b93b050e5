//! Folds the entries of a partition, and hands their effects to the publisher and the writer.

use std::collections::VecDeque;
use std::time::Instant;

use anyhow::{Context, Result};
use foldhash::{HashMap, HashSet};
use redis::RedisResult;
use storage_core::domain::amendment::Amendment;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::AcceptedTick;

use storage_core::domain::timeframe::Timeframe;
use storage_core::domain::trade_identity::TradeTime;
use storage_core::redis::codec::repairs::Base;
use storage_core::redis::connection::Connection;
use storage_core::redis::hot::{self, RestoredBase};
use storage_core::redis::stream::Stream;
use tokio::sync::{mpsc, watch};

use crate::age::Ages;
use crate::backlog::Backlog;
use crate::batch::Batch;
use crate::config::Config;
use crate::decode::{Decoded, DecodedTick, Decoder, depends_on_symbol, has_unknown_side};
use crate::dedup::{Dedup, TradeId, Trades};
use crate::fold::{Folded, Rules, SymbolState};
use crate::metrics::{self, Counts};
use crate::read::{BLOCK, Read};
use crate::restore::{self, AmendedMinutes, DedupWindow, LostState, Tail};
use idle::IdleCheck;

mod idle;

/// Maximum number of bases that are looked up in one pipeline.
const MAX_BASES: usize = 1_000;

/// Number of symbols that are restored in one step, between two reads. Redis takes about 1 ms for their candles.
const RESTORED_TOGETHER: usize = 50;

/// State of the task that folds.
pub(crate) struct FoldTask {
    config: Config,
    decoder: Decoder,
    rules: Rules,
    conn: Connection,
    ages: Ages,
    dedup: Dedup,
    symbols: HashMap<Symbol, SymbolState>,
    /// Symbols with open candles that are not in memory yet: those with ticks are restored first.
    unrestored: HashSet<Symbol>,
    /// Last ticks of the unrestored symbols.
    tails: HashMap<Symbol, Tail>,
    /// Minutes that the history changed before the position. The candles in Redis may not contain it yet.
    amended: HashMap<Symbol, AmendedMinutes>,
    lost: LostState,
    /// Requested bases.
    awaited: VecDeque<Base>,
    next_base_lookup: Instant,
    /// Symbols that have changed since their changes were taken.
    changed: Vec<Symbol>,
    /// Symbols whose latest tick has not been handed to the publisher.
    unpublished: Vec<Symbol>,
    /// Number of messages that were handed to the publisher.
    latest_messages: u64,
    /// The batch to hand to the writer next.
    batch: Batch,
    /// Number of batches that were handed over.
    batches: u64,
    written: watch::Receiver<u64>,
    backlog: Backlog,
    /// The last entry that was folded.
    position: StreamId,
    /// Time of the last read.
    last_read: Instant,
    idle_check: IdleCheck,
}

/// State of a partition that was restored from Redis.
pub(crate) struct Restored {
    pub(crate) decoder: Decoder,
    pub(crate) rules: Rules,
    pub(crate) lost: LostState,
    /// Symbols with open candles.
    pub(crate) open: HashSet<Symbol>,
    pub(crate) window: DedupWindow,
    /// The last entry whose effects are written.
    pub(crate) position: StreamId,
}

impl FoldTask {
    /// Creates the task. `written` is the number of the last batch whose closed candles are written.
    pub(crate) fn new(config: &Config, restored: Restored, ages: Ages, written: watch::Receiver<u64>) -> Self {
        let now = Instant::now();
        let task = Self {
            rules: restored.rules,
            decoder: restored.decoder,
            dedup: restored.window.trades,
            symbols: HashMap::default(),
            unrestored: restored.open,
            tails: restored.window.tails,
            amended: restored.window.amended,
            lost: restored.lost,
            awaited: VecDeque::new(),
            next_base_lookup: now,
            changed: Vec::new(),
            unpublished: Vec::new(),
            latest_messages: 0,
            batch: Batch::after(restored.position),
            batches: 0,
            written,
            backlog: Backlog::new(config.stream.partitions),
            position: restored.position,
            last_read: now,
            idle_check: IdleCheck::new(now),
            conn: Connection::ordinary(&config.redis),
            ages,
            config: config.clone(),
        };
        task.report_awaited();
        task
    }

    /// Folds what arrives on `reads`, and hands the latest ticks to the publisher and batches to the writer whenever
    /// these are ready: what changes meanwhile is conflated here. In a [backlog](crate::backlog) both wait. Ends with
    /// the reader, after a last batch, or with the publisher or the writer.
    pub(crate) async fn run(
        mut self,
        mut reads: mpsc::Receiver<Read>,
        latest: mpsc::Sender<Vec<AcceptedTick>>,
        batches: mpsc::Sender<Batch>,
    ) -> Result<()> {
        loop {
            let is_due = self.is_due(Instant::now());
            tokio::select! {
                biased;
                permit = latest.reserve(), if is_due && !self.unpublished.is_empty() => match permit {
                    Ok(permit) => permit.send(self.take_latest()),
                    Err(_) => return Ok(()),
                },
                permit = batches.reserve(), if is_due && self.has_changes() => match permit {
                    Ok(permit) => permit.send(self.take_batch()),
                    Err(_) => return Ok(()),
                },
                read = reads.recv(), if !self.batch.is_full() => match read {
                    Some(read) => self.process(read).await?,
                    None => break,
                },
                () = std::future::ready(()), if !self.unrestored.is_empty() || self.checks_idle() => {
                    self.work_between_reads().await.context("reading the open candles")?;
                }
            }
            self.join_bases().await.context("reading restored candles")?;
            self.begin_idle_check().await.context("reading the clock")?;
        }
        let _ = latest.send(self.take_latest()).await;
        let _ = batches.send(self.take_batch()).await;
        Ok(())
    }

    /// Folds the entries of a read.
    async fn process(&mut self, read: Read) -> Result<()> {
        let Read { entries, at } = read;
        self.last_read = at;
        self.backlog.record(at, entries.len() == self.config.hot.batch_entries);
        let Some(last) = entries.last().map(|entry| entry.id) else {
            return Ok(());
        };
        self.decoder
            .refresh(&mut self.conn)
            .await
            .context("reading the properties of symbols")?;
        self.restore_symbols(&entries).await.context("reading candles")?;

        let mut counts = Counts::default();
        let mut are_properties_new = false;
        for entry in &entries {
            let mut folded = self.fold(entry, &mut counts);
            if !are_properties_new && folded.as_ref().is_err_and(depends_on_symbol) {
                self.decoder
                    .read_symbols(&mut self.conn)
                    .await
                    .context("reading the properties of symbols")?;
                are_properties_new = true;
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
        let decoded = match self.decoder.decode(entry)? {
            Decoded::Tick(decoded) => decoded,
            Decoded::Amendment(amendment) => {
                counts.amendments += 1;
                self.amend(amendment);
                return Ok(());
            }
        };
        let accepted = &decoded.accepted;
        let symbol = &accepted.tick.symbol;
        let trade_id = accepted.dedup_id().map(|id| TradeId::parse(&id));
        let time = TradeTime::of_us(accepted.tick.ts_us);
        let now_ms = accepted.revision.stream_id().ms;
        let trades = trade_id.map(|id| (self.dedup.of(symbol), id));
        let is_known = |(trades, id): &(&mut Trades, TradeId)| trades.contains(*id, time, now_ms);
        if trades.as_ref().is_some_and(is_known) {
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
            trades.insert(id, time, now_ms);
        }
        match folded {
            Folded::Counted => counts.folded += 1,
            Folded::TooLate { start_us } => {
                counts.repaired += 1;
                self.batch.add_repair(symbol, start_us, accepted.revision);
            }
        }
        counts.rounded += u64::from(decoded.rounded);
        counts.unknown_side += u64::from(has_unknown_side(entry, accepted));
        mark_changed(state, &mut self.changed);
        if accepted.tick.ts_us == state.watermark_us {
            if state.latest.is_none() {
                self.unpublished.push(symbol.clone());
            }
            state.latest = Some(decoded.accepted);
        }
        Ok(())
    }

    /// Requests the candles that contain an amended trade from the history, which knows whether and how the amendment
    /// changes the trade.
    fn amend(&mut self, amendment: Amendment) {
        let Some(state) = self.symbols.get_mut(&amendment.symbol) else {
            return;
        };
        state.amend(amendment.ts_us, amendment.revision);
        mark_changed(state, &mut self.changed);
        if amendment.ts_us == state.watermark_us
            && let Some(tick) = amendment.corrected_tick()
        {
            if state.latest.is_none() {
                self.unpublished.push(amendment.symbol);
            }
            state.latest = Some(tick);
        }
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
        let answers = hot::bases(&mut self.conn, &requested).await?;
        let mut joined = 0;
        for (request, answer) in requested.into_iter().zip(answers) {
            let Some(state) = self.symbols.get_mut(&request.symbol) else {
                continue;
            };
            let (timeframe, start_us, until) = (request.timeframe, request.start_us, request.revision);
            if answer.is_some_and(|RestoredBase(base)| state.join_base(timeframe, start_us, until, base)) {
                joined += 1;
                mark_changed(state, &mut self.changed);
            } else if state.awaits_base(timeframe, start_us, until) {
                self.awaited.push_back(request);
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

    /// Returns `true` if the effects may be handed over.
    fn is_due(&self, now: Instant) -> bool {
        let first_read = self.batch.first_read.unwrap_or(now);
        self.batch.is_full() || self.backlog.due(first_read, self.changed.len()) <= now
    }

    fn has_changes(&self) -> bool {
        !self.batch.is_empty() || !self.changed.is_empty()
    }

    /// Takes the batch with the changes of all changed symbols.
    fn take_batch(&mut self) -> Batch {
        for symbol in std::mem::take(&mut self.changed) {
            if let Some(state) = self.symbols.get_mut(&symbol) {
                state.is_changed = false;
            }
            self.take_changes(&symbol, None);
        }
        self.batches += 1;
        let mut batch = std::mem::replace(&mut self.batch, Batch::after(self.position));
        batch.is_backlog = self.backlog.hand_over();
        batch.latest_messages = self.latest_messages + u64::from(!self.unpublished.is_empty());
        batch
    }

    /// Adds the changes of a symbol to the batch. With `idle_us` candles are closed by the clock, too.
    fn take_changes(&mut self, symbol: &Symbol, idle_us: Option<i64>) {
        let Some(state) = self.symbols.get_mut(symbol) else {
            return;
        };
        let changes = state.take_changes(&self.rules, idle_us);
        if idle_us.is_some() && changes.all_closed {
            self.idle_check.settled.push((symbol.clone(), self.batches + 1));
        } else if idle_us.is_some() && changes.is_empty() {
            return;
        }
        if changes.incomplete > 0 {
            tracing::warn!(partition = self.decoder.rules.partition, %symbol, candles = changes.incomplete,
                "Redis may have lost the first ticks of candles; they are published once aggregator-admin has restored \
                 them");
            metrics::CANDLES_INCOMPLETE.increment(changes.incomplete);
        }
        let requested = self.batch.bases.len();
        self.batch.add_changes(symbol, changes);
        if self.batch.bases.len() > requested {
            self.awaited.extend(self.batch.bases[requested..].iter().cloned());
            self.report_awaited();
        }
    }

    /// Takes the latest ticks that have not been handed over.
    fn take_latest(&mut self) -> Vec<AcceptedTick> {
        self.latest_messages += 1;
        let unpublished = std::mem::take(&mut self.unpublished).into_iter();
        unpublished
            .filter_map(|symbol| self.symbols.get_mut(&symbol)?.latest.take())
            .collect()
    }

    /// Does a step of the work between two reads: restores some of the symbols with open candles, or checks some for
    /// idle ones.
    async fn work_between_reads(&mut self) -> RedisResult<()> {
        if self.unrestored.is_empty() {
            self.check_idle();
            return Ok(());
        }
        let symbols = self.unrestored.iter().take(RESTORED_TOGETHER).cloned().collect();
        self.restore_open(symbols).await
    }

    /// Restores symbols with open candles.
    async fn restore_open(&mut self, symbols: Vec<Symbol>) -> RedisResult<()> {
        for mut state in restore::open_states(&mut self.conn, symbols, &self.rules).await? {
            let symbol = state.symbol.clone();
            self.unrestored.remove(&symbol);
            self.lost.mark_open(&mut state);
            let tail = self.tails.remove(&symbol).unwrap_or_default();
            let lost = tail.lost(&state, &self.rules);
            self.symbols.insert(symbol.clone(), state);
            self.amend_again(&symbol);
            for tick in lost {
                self.refold(&tick);
            }
        }
        Ok(())
    }

    /// Requests the candles of a restored symbol that the history changed before the position.
    fn amend_again(&mut self, symbol: &Symbol) {
        let amended = self.amended.remove(symbol);
        if let (Some(amended), Some(state)) = (amended, self.symbols.get_mut(symbol)) {
            amended.amend(state);
            mark_changed(state, &mut self.changed);
        }
    }

    /// Restores the symbols of `entries` that are not in memory.
    async fn restore_symbols(&mut self, entries: &[Entry]) -> RedisResult<()> {
        let names = entries.iter().filter_map(|entry| entry.optional("symbol"));
        let names = names.filter_map(|name| std::str::from_utf8(name).ok());
        let unknown = names.filter(|name| !self.symbols.contains_key(*name));
        let unknown: HashSet<Symbol> = unknown.filter_map(|name| name.parse().ok()).collect();
        let (open, unknown) = unknown.into_iter().partition(|symbol| self.unrestored.contains(symbol));
        self.restore_open(open).await?;
        for mut state in restore::closed_states(&mut self.conn, unknown, &self.rules).await? {
            self.lost.mark_closed(&mut state);
            let symbol = state.symbol.clone();
            self.symbols.insert(symbol.clone(), state);
            self.amend_again(&symbol);
        }
        Ok(())
    }
}

/// Adds a symbol to the changed ones.
fn mark_changed(state: &mut SymbolState, changed: &mut Vec<Symbol>) {
    if !std::mem::replace(&mut state.is_changed, true) {
        changed.push(state.symbol.clone());
    }
}
