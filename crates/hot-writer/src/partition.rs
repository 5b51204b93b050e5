//! Serving one partition: reading its ticks and folding them, while what came of the ones before is being written.
//!
//! All state is built from what Redis holds, so whenever anything fails, the partition simply begins again.

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
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::connection::{Connection, present_master};
use storage_core::redis::hot::{self, Term};
use storage_core::redis::keys;
use storage_core::redis::lost::Losses;
use storage_core::redis::position::resume;
use storage_core::redis::stream::{HOT_WRITER, Stream, StreamReader};
use storage_core::redis::trim::now_ms;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::decode::{Admission, Countable, Decoder, does_not_fit};
use crate::dedup::{Dedup, TradeId};
use crate::fold::{Folded, Rules, SymbolState};
use crate::metrics::{self, Counts};
use crate::pace::Pace;
use crate::read::{BLOCK, Read, ReadAhead};
use crate::restore::{self, Losses};
use crate::write::{Writer, Writes, Writing, Written};

/// How many times as long as looking at all symbols takes lies at least between two looks at them.
const QUIET_PAUSE: u32 = 10;

/// How many times Redis may be shown latest ticks before it has answered.
const MOST_SHOWING: usize = 8;

/// How many restored candles are looked for at once.
const BASES_AT_ONCE: usize = 1_000;

/// How many symbols a line of the log names.
const SYMBOLS_NAMED: usize = 5;

/// A partition in service.
pub(crate) struct Partition {
    config: Config,
    decoder: Decoder,
    rules: Rules,
    conn: Connection,
    writer: Writer,
    dedup: Dedup,
    symbols: HashMap<Symbol, SymbolState>,
    losses: Losses,
    /// The candles whose beginning was asked for.
    awaited: VecDeque<(Symbol, Timeframe, i64)>,
    bases_due: Instant,
    /// The symbols that the index of open candles holds once everything begun is written.
    indexed: HashSet<Symbol>,
    /// The symbols that have changed since a batch was last written.
    touched: Vec<Symbol>,
    /// The symbols whose latest tick was not written.
    fresh: Vec<Symbol>,
    /// What is written next.
    writes: Writes,
    pace: Pace,
    /// The last entry that was folded.
    position: StreamId,
    /// When what was folded last had been read.
    read: Instant,
    quiet_due: Instant,
}

impl Partition {
    /// Takes up the partition where Redis says that it was left.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub(crate) async fn take_up(config: &Config, partition: u16) -> Result<Self> {
        // All that is read, and all that comes of it, is of one server, also when Sentinels change their minds meanwhile.
        let redis = present_master(&config.redis).await.context("finding the master")?;
        let config = &Config {
            redis,
            ..config.clone()
        };
        let mut conn = Connection::open_once(&config.redis).await.context("connecting")?;
        let stream = Stream::Ticks(partition);
        let position = resume(&mut conn, stream, HOT_WRITER)
            .await
            .context("reading the position")?;
        let settings = &config.hot;
        let (term, open) = Term::begin(&mut conn, partition)
            .await
            .context("reading the open candles")?;
        let admission = Admission {
            partition,
            partitions: config.stream.partitions,
            max_future: config.stream.max_future,
        };
        let decoder = Decoder::new(admission, &mut conn)
            .await
            .context("reading volume decimals")?;
        let rules = Rules::new(settings.close_grace, settings.amend_window, settings.dedup_window);
        let indexed = open.iter().cloned().collect();
        let losses = Losses::of(&mut conn, partition, position, config)
            .await
            .context("reading since when Redis holds every candle")?;
        let mut symbols: HashMap<Symbol, SymbolState> = HashMap::default();
        for mut state in restore::open_states(&mut conn, open, &rules)
            .await
            .context("reading the open candles")?
        {
            losses.of_open(&mut state);
            symbols.insert(state.symbol.clone(), state);
        }
        let before = restore::before(&mut conn, &decoder, position, settings.dedup_window, &symbols, &rules)
            .await
            .context("reading the trades of the dedup window")?;
        let now = Instant::now();
        let mut partition = Self {
            rules,
            writer: Writer::new(config, partition, term, conn),
            decoder,
            dedup: before.trades,
            symbols,
            losses,
            awaited: VecDeque::new(),
            bases_due: now,
            indexed,
            touched: Vec::new(),
            fresh: Vec::new(),
            writes: Writes::after(position),
            pace: Pace::new(now, config.stream.partitions),
            position,
            read: now,
            quiet_due: now + BLOCK,
            conn: Connection::ordinary(&config.redis),
            config: config.clone(),
        };
        for tick in before.lost {
            partition.fold_again(&tick);
        }
        partition.count_awaited();
        Ok(partition)
    }

    /// Reads, folds and writes until `token` is cancelled. What was folded by then is written.
    ///
    /// # Errors
    /// When Redis can't be asked. Then the partition must be taken up again.
    pub(crate) async fn serve(&mut self, losses: Losses, token: &CancellationToken) -> Result<()> {
        let stream = Stream::Ticks(self.decoder.admission.partition);
        let reader = StreamReader::new(&self.config.redis, stream, self.position, BLOCK);
        let reader = reader.watching(&self.config.redis, HOT_WRITER, losses);
        let mut ahead = ReadAhead::start(reader, self.config.hot.batch_entries);
        let mut writing: Option<Writing> = None;
        let mut showing: FuturesUnordered<BoxFuture<'static, RedisResult<()>>> = FuturesUnordered::new();
        loop {
            let waits_for_room = writing.is_some() && self.writes.are_many();
            let due = self.due().filter(|_| writing.is_none());
            tokio::select! {
                biased;
                () = token.cancelled() => break,
                done = Writing::end(&mut writing) => self.wrote(done?),
                Some(shown) = showing.next() => shown.context("writing the latest ticks")?,
                read = ahead.next(), if !waits_for_room => self.take(read?).await?,
                () = tokio::time::sleep_until(due.unwrap_or(self.read).into()), if due.is_some() => {}
            }
            if !self.pace.is_behind() && !self.fresh.is_empty() && showing.len() < MOST_SHOWING {
                let latest = self.take_latest();
                showing.push(Box::pin(self.writer.clone().show(self.conn.clone(), latest)));
            }
            self.join_bases().await.context("reading restored candles")?;
            if writing.is_none() {
                writing = self.begin_to_write().await?;
            }
        }
        while let Some(shown) = showing.next().await {
            shown.context("writing the latest ticks")?;
        }
        self.pace.end();
        if writing.is_some() {
            let done = Writing::end(&mut writing).await?;
            self.wrote(done);
        }
        writing = Some(self.write(None));
        Writing::end(&mut writing).await?;
        Ok(())
    }

    /// Folds what was read.
    async fn take(&mut self, read: Read) -> Result<()> {
        let Read { entries, at } = read;
        self.read = at;
        self.pace.read(at, entries.len() == self.config.hot.batch_entries);
        let Some(last) = entries.last().map(|entry| entry.id) else {
            return Ok(());
        };
        self.decoder
            .refresh(&mut self.conn)
            .await
            .context("reading volume decimals")?;
        self.load_unknown(&entries).await.context("reading candles")?;

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
                let stream = Stream::Ticks(self.decoder.admission.partition);
                self.writes.dead_letter(stream, entry, &reason);
            }
        }
        counts.report(entries.len());
        self.position = last;
        self.writes.read(entries.len(), last, at);
        Ok(())
    }

    fn fold(&mut self, entry: &Entry, counts: &mut Counts) -> Result<(), Rejection> {
        let Countable {
            accepted,
            qty,
            decimals,
            rounded,
        } = self.decoder.decode(entry)?;
        let symbol = &accepted.tick.symbol;
        let trade_id = accepted.dedup_id().map(|id| TradeId::of(&id));
        let now_ms = accepted.revision.stream_id().ms;
        let trades = trade_id.map(|id| (self.dedup.of(symbol), id));
        if trades.as_ref().is_some_and(|(trades, id)| trades.know(*id, now_ms)) {
            counts.duplicate += 1;
            // It may have been too late when it came first, and then did not fit its minute in the history.
            if accepted.origin != accepted.revision.stream_id() {
                let start_us = Timeframe::M1.bucket_start_us(accepted.tick.ts_us);
                self.writes.repair(symbol, start_us, accepted.revision);
            }
            return Ok(());
        }
        let state = self
            .symbols
            .entry(symbol.clone())
            .or_insert_with(|| SymbolState::new(symbol.clone()));
        let folded = state.fold(&accepted, qty, decimals, &self.rules).map_err(|error| {
            let minute = state.frames[Timeframe::M1 as usize].of_mut(Timeframe::M1, accepted.tick.ts_us);
            let held = minute.map_or(Decimal::ZERO, |slot| slot.candle.volume);
            accepted.tick.lots_rejection(held, error, decimals)
        })?;
        // Only now: a dead letter that is requeued is not a duplicate of itself.
        if let Some((trades, id)) = trades {
            trades.note(id, now_ms);
        }
        match folded {
            Folded::Counted => counts.folded += 1,
            Folded::TooLate { start_us } => {
                counts.repaired += 1;
                self.writes.repair(symbol, start_us, accepted.revision);
            }
        }
        counts.rounded += u64::from(rounded);
        touch(state, &mut self.touched);
        if accepted.tick.ts_us == state.watermark_us {
            if state.latest.is_none() {
                self.fresh.push(symbol.clone());
            }
            state.latest = Some(accepted);
        }
        Ok(())
    }

    /// Folds a tick from before the position, whose minute Redis has lost.
    fn fold_again(&mut self, tick: &Countable) {
        let Some(state) = self.symbols.get_mut(&tick.accepted.tick.symbol) else {
            return;
        };
        // A quantity that does not fit was a dead letter already.
        if state
            .fold_again(&tick.accepted, tick.qty, tick.decimals, &self.rules)
            .is_ok()
        {
            touch(state, &mut self.touched);
        }
    }

    /// Looks from time to time whether the beginnings of candles that were asked for have come, and joins them.
    async fn join_bases(&mut self) -> RedisResult<()> {
        if self.awaited.is_empty() || Instant::now() < self.bases_due {
            return Ok(());
        }
        let asked: Vec<_> = self.awaited.drain(..self.awaited.len().min(BASES_AT_ONCE)).collect();
        let keys: Vec<_> = asked
            .iter()
            .map(|(symbol, timeframe, start_us)| keys::candle_restored(*timeframe, symbol, *start_us))
            .collect();
        let bases = hot::bases(&mut self.conn, &keys).await?;
        let mut joined = 0;
        for ((symbol, timeframe, start_us), base) in asked.into_iter().zip(bases) {
            let Some(state) = self.symbols.get_mut(&symbol) else {
                continue;
            };
            let has_joined = base.is_some_and(|base| state.join(timeframe, start_us, base.revision, base.candle));
            if has_joined {
                joined += 1;
                touch(state, &mut self.touched);
            } else if state.awaits(timeframe, start_us) {
                self.awaited.push_back((symbol, timeframe, start_us));
            }
        }
        self.bases_due = Instant::now() + BLOCK;
        let partition = self.decoder.admission.partition;
        if joined > 0 {
            metrics::CANDLES_RESTORED.increment(joined);
            tracing::info!(partition, candles = joined, "restored candles from the history");
        }
        self.count_awaited();
        Ok(())
    }

    fn count_awaited(&self) {
        metrics::CANDLES_AWAITED.set(
            &self.decoder.admission.partition.to_string(),
            f64::from(u32::try_from(self.awaited.len()).unwrap_or(u32::MAX)),
        );
    }

    /// Notes that the beginnings of candles are asked for, and says so.
    fn ask_for(&mut self, bases: Vec<(Symbol, Timeframe, i64)>) {
        if bases.is_empty() {
            return;
        }
        let mut symbols: Vec<&str> = bases.iter().map(|(symbol, ..)| symbol.as_str()).collect();
        symbols.dedup();
        tracing::warn!(
            partition = self.decoder.admission.partition,
            candles = bases.len(),
            symbols = symbols[..symbols.len().min(SYMBOLS_NAMED)].join(" "),
            "Redis may have lost the beginning of candles; they are shown once aggregator-admin has restored it from the history"
        );
        metrics::CANDLES_INCOMPLETE.increment(u64::try_from(bases.len()).unwrap_or(u64::MAX));
        self.awaited.extend(bases);
        self.count_awaited();
    }

    /// Begins to write what has changed, when it is due; from time to time also what the silence of symbols has closed.
    async fn begin_to_write(&mut self) -> Result<Option<Writing>> {
        let now = Instant::now();
        // What waits for its time is not written because of those who are silent.
        if now >= self.quiet_due && self.due().is_none_or(|due| due <= now) {
            let idle_us = self.silent_until_us().await.context("reading the clock")?;
            let writing = self.write(Some(idle_us));
            self.quiet_due = now + BLOCK.max(now.elapsed() * QUIET_PAUSE);
            return Ok(Some(writing));
        }
        let is_due = self.due().is_some_and(|due| due <= now);
        Ok((is_due || self.writes.are_many()).then(|| self.write(None)))
    }

    /// When what has changed is to be written, if anything has.
    fn due(&self) -> Option<Instant> {
        let first_read = self.writes.first_read?;
        Some(self.pace.due(first_read, self.touched.len()))
    }

    /// Until when, in µs since 1970, it is known that nothing else came: until what was read last was read, if that was all there
    /// was, or else until its last entry.
    async fn silent_until_us(&mut self) -> Result<i64> {
        let until_ms = if !self.pace.is_behind() {
            let now_ms = now_ms(&mut self.conn).await?;
            now_ms.saturating_sub(u64::try_from(self.read.elapsed().as_millis())?)
        } else {
            self.position.ms
        };
        Ok(i64::try_from(until_ms.saturating_mul(1_000))?)
    }

    /// Begins to write the changes of the touched symbols or, with `idle_us`, of all.
    fn write(&mut self, idle_us: Option<i64>) -> Writing {
        let mut writes = std::mem::replace(&mut self.writes, Writes::after(self.position));
        writes.latest = self.take_latest();
        let touched = std::mem::take(&mut self.touched);
        let symbols = match idle_us {
            None => touched,
            Some(idle_us) => {
                self.dedup
                    .forget_quiet(u64::try_from(idle_us / 1_000).unwrap_or_default());
                self.symbols.keys().cloned().collect()
            }
        };
        let mut bases = Vec::new();
        for symbol in symbols {
            let Some(state) = self.symbols.get_mut(&symbol) else {
                continue;
            };
            state.is_touched = false;
            let changes = state.take_changes(&self.rules, idle_us);
            let asked = changes.bases.iter();
            bases.extend(asked.map(|(timeframe, start_us, _)| (symbol.clone(), *timeframe, *start_us)));
            if !changes.all_closed {
                if self.indexed.insert(symbol.clone()) {
                    writes.opened.push(symbol.clone());
                }
            } else {
                if self.indexed.remove(&symbol) {
                    writes.closed.push(symbol.clone());
                }
                if idle_us.is_some() {
                    writes.settled.push(symbol.clone());
                }
            }
            writes.changes(&symbol, changes);
        }
        self.ask_for(bases);
        self.writer.begin(writes, self.pace.begin())
    }

    /// The latest ticks that were not shown.
    fn take_latest(&mut self) -> Vec<AcceptedTick> {
        let fresh = std::mem::take(&mut self.fresh).into_iter();
        fresh
            .filter_map(|symbol| self.symbols.get_mut(&symbol)?.latest.take())
            .collect()
    }

    /// Loads what Redis holds of the symbols of `entries` that are not in memory.
    async fn load_unknown(&mut self, entries: &[Entry]) -> RedisResult<()> {
        let names = entries.iter().filter_map(|entry| entry.optional("symbol"));
        let names = names.filter_map(|name| std::str::from_utf8(name).ok());
        let unknown = names.filter(|name| !self.symbols.contains_key(*name));
        let unknown: HashSet<Symbol> = unknown.filter_map(|name| name.parse().ok()).collect();
        let unknown = unknown.into_iter().collect();
        for mut state in restore::states(&mut self.conn, unknown, &self.rules).await? {
            self.losses.of_unknown(&mut state);
            self.symbols.insert(state.symbol.clone(), state);
        }
        Ok(())
    }

    /// After a batch was written: forgets the symbols that had nothing open in it and still haven't, and paces the next one.
    fn wrote(&mut self, written: Written) {
        for symbol in written.settled {
            if self.symbols.get(&symbol).is_some_and(SymbolState::is_settled) {
                self.symbols.remove(&symbol);
            }
        }
        self.pace.wrote(Instant::now(), written.work);
        metrics::SYMBOLS.set(
            &self.decoder.admission.partition.to_string(),
            f64::from(u32::try_from(self.symbols.len()).unwrap_or(u32::MAX)),
        );
    }
}

/// Notes that a symbol has changed.
fn touch(state: &mut SymbolState, touched: &mut Vec<Symbol>) {
    if !std::mem::replace(&mut state.is_touched, true) {
        touched.push(state.symbol.clone());
    }
}
