//! Serving one partition: from reading its ticks to writing what comes of them.
//!
//! All state is built from what Redis holds, so whenever anything fails, the partition simply begins again.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles::CandleState;
use storage_core::redis::codec::dead;
use storage_core::redis::connection::Connection;
use storage_core::redis::hot::{self, Term};
use storage_core::redis::keys;
use storage_core::redis::position::position_of;
use storage_core::redis::stream::{HOT_WRITER, Pages, Stream, StreamReader, create_group};
use storage_core::redis::symbols::VolumeDecimals;
use storage_core::redis::trim::now_ms;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::decode::{Admission, Countable};
use crate::dedup::Dedup;
use crate::fold::{Folded, Rules, SymbolState};
use crate::metrics;
use crate::write::Writes;

/// How long a read waits for ticks before quiet symbols are looked at.
const BLOCK: Duration = Duration::from_millis(250);
/// How long volume decimals are believed.
const DECIMALS_AGE: Duration = Duration::from_secs(1);

/// A partition in service.
pub(crate) struct Partition {
    config: Config,
    term: Term,
    admission: Admission,
    rules: Rules,
    conn: Connection,
    reader: StreamReader,
    position: StreamId,
    dedup: Dedup,
    symbols: HashMap<Symbol, SymbolState>,
    /// The symbols that the index of open candles holds.
    indexed: HashSet<Symbol>,
    decimals: VolumeDecimals,
    decimals_read: Instant,
}

impl Partition {
    /// Takes up the partition where Redis says that it was left.
    ///
    /// # Errors
    /// When Redis can't be asked.
    pub(crate) async fn take_up(config: &Config, partition: u16) -> Result<Self> {
        let mut conn = Connection::ordinary(&config.redis);
        let stream = Stream::Ticks(partition);
        let position = match position_of(&mut conn, stream, HOT_WRITER)
            .await
            .context("reading the position")?
        {
            Some(position) => position.delivered,
            None => {
                create_group(&mut conn, stream, HOT_WRITER)
                    .await
                    .context("creating the consumer group")?;
                StreamId::START
            }
        };
        let hot = &config.hot;
        let (term, open) = Term::begin(&mut conn, partition)
            .await
            .context("reading the open candles")?;
        let mut partition = Self {
            term,
            admission: Admission {
                partition,
                partitions: config.stream.partitions,
                max_future: config.stream.max_future,
            },
            rules: Rules::new(hot.close_grace, hot.amend_window, hot.dedup_window),
            reader: StreamReader::new(&config.redis, stream, position, BLOCK),
            position,
            dedup: Dedup::new(hot.dedup_window),
            symbols: HashMap::new(),
            indexed: HashSet::new(),
            decimals: VolumeDecimals::load(&mut conn)
                .await
                .context("reading volume decimals")?,
            decimals_read: Instant::now(),
            conn,
            config: config.clone(),
        };
        partition
            .remember_trades()
            .await
            .context("reading the trades of the dedup window")?;
        partition.load(open.clone()).await.context("reading the open candles")?;
        partition.indexed = open.into_iter().collect();
        Ok(partition)
    }

    /// Reads, folds and writes until `token` is cancelled. A batch that has begun is finished.
    ///
    /// # Errors
    /// When Redis can't be asked. Then the partition must be taken up again.
    pub(crate) async fn serve(&mut self, token: &CancellationToken) -> Result<()> {
        let mut quiet_looked_at = Instant::now();
        while !token.is_cancelled() {
            let batch = self.config.hot.batch_entries;
            let entries = self.reader.next(batch, BLOCK).await.context("reading ticks")?;
            let begun = Instant::now();
            if !entries.is_empty() {
                metrics::TICKS_READ.increment(u64::try_from(entries.len())?);
                metrics::BATCH_ENTRIES.record(f64::from(u32::try_from(entries.len())?));
                self.batch(&entries).await?;
                metrics::BATCH_SECONDS.record(begun.elapsed().as_secs_f64());
            }
            if quiet_looked_at.elapsed() >= BLOCK {
                self.close_quiet(entries.len() < batch).await?;
                quiet_looked_at = Instant::now();
            }
        }
        Ok(())
    }

    async fn batch(&mut self, entries: &[Entry]) -> Result<()> {
        let mut writes = Writes::new(self.admission.partition, self.term.clone(), &self.config.hot);
        let decoded = self.decode(entries).await.context("reading volume decimals")?;
        let unknown = decoded
            .iter()
            .flatten()
            .map(|tick| &tick.accepted.tick.symbol)
            .filter(|symbol| !self.symbols.contains_key(*symbol));
        let unknown: HashSet<Symbol> = unknown.cloned().collect();
        self.load(unknown.into_iter().collect())
            .await
            .context("reading candles")?;

        let mut touched = HashSet::new();
        for (entry, decoded) in entries.iter().zip(decoded) {
            let folded = decoded.and_then(|tick| self.fold(&tick, &mut touched, &mut writes));
            if let Err(reason) = folded {
                writes.dead_letter(Stream::Ticks(self.admission.partition), entry, &reason);
            }
        }
        self.collect(touched, None, &mut writes);
        let last = entries.last().map_or(self.position, |entry| entry.id);
        writes
            .run(&mut self.conn, self.position, last, entries.len())
            .await
            .context("writing a batch")?;
        self.position = last;
        Ok(())
    }

    /// Judges the entries. A quantity that does not fit is judged again by the decimals of this moment: the operator may just have
    /// changed them.
    async fn decode(&mut self, entries: &[Entry]) -> Result<Vec<Result<Countable, Rejection>>> {
        if self.decimals_read.elapsed() >= DECIMALS_AGE {
            self.read_decimals().await?;
        }
        let decode = |decimals: &VolumeDecimals| -> Vec<_> {
            entries
                .iter()
                .map(|entry| self.admission.decode(entry, decimals))
                .collect()
        };
        let decoded = decode(&self.decimals);
        let unfitting = |result: &Result<Countable, Rejection>| {
            matches!(result, Err(Rejection::TooFine { .. } | Rejection::TooLarge { .. }))
        };
        if !decoded.iter().any(unfitting) {
            return Ok(decoded);
        }
        self.read_decimals().await?;
        Ok(entries
            .iter()
            .map(|entry| self.admission.decode(entry, &self.decimals))
            .collect())
    }

    async fn read_decimals(&mut self) -> Result<()> {
        self.decimals = VolumeDecimals::load(&mut self.conn).await?;
        self.decimals_read = Instant::now();
        Ok(())
    }

    fn fold(&mut self, tick: &Countable, touched: &mut HashSet<Symbol>, writes: &mut Writes) -> Result<(), Rejection> {
        let Countable {
            accepted,
            qty,
            decimals,
            rounded,
        } = tick;
        let symbol = &accepted.tick.symbol;
        let trade_id = accepted.dedup_id();
        let now_ms = accepted.revision.stream_id().ms;
        if trade_id.as_ref().is_some_and(|id| self.dedup.knows(symbol, id, now_ms)) {
            metrics::TICKS_DUPLICATE.increment(1);
            return Ok(());
        }
        let state = self
            .symbols
            .entry(symbol.clone())
            .or_insert_with(|| SymbolState::new(symbol.clone()));
        let folded = state
            .fold(accepted, *qty, *decimals, &self.rules)
            .map_err(|error| accepted.tick.lots_rejection(error, *decimals))?;
        // Only now: a dead letter that is requeued is not a duplicate of itself.
        if let Some(id) = trade_id {
            self.dedup.note(symbol, &id, now_ms);
        }
        match folded {
            Folded::Counted => metrics::TICKS_FOLDED.increment(1),
            Folded::TooLate { start_us } => {
                metrics::TICKS_REPAIRED.increment(1);
                writes.repair(symbol, start_us, accepted.revision);
            }
        }
        metrics::TICKS_ROUNDED.increment(u64::from(*rounded));
        touched.insert(symbol.clone());
        Ok(())
    }

    /// Closes the candles of symbols that have gone quiet: until now, if the stream has been read to its end, or else until the last
    /// entry that was read.
    async fn close_quiet(&mut self, at_end: bool) -> Result<()> {
        let now_ms = if at_end {
            now_ms(&mut self.conn).await.context("reading the clock")?
        } else {
            self.position.ms
        };
        let mut writes = Writes::new(self.admission.partition, self.term.clone(), &self.config.hot);
        let symbols: Vec<Symbol> = self.symbols.keys().cloned().collect();
        self.collect(symbols, Some(i64::try_from(now_ms.saturating_mul(1_000))?), &mut writes);
        self.dedup.forget_quiet(now_ms);
        writes
            .run(&mut self.conn, self.position, self.position, 0)
            .await
            .context("closing candles")
    }

    /// Takes the changes of `symbols` into `writes`, and forgets the symbols that have nothing open.
    fn collect(&mut self, symbols: impl IntoIterator<Item = Symbol>, idle_us: Option<i64>, writes: &mut Writes) {
        for symbol in symbols {
            let Some(state) = self.symbols.get_mut(&symbol) else {
                continue;
            };
            if let Some(latest) = state.latest.take() {
                writes.latest(&latest);
            }
            let changes = state.take_changes(&self.rules, idle_us);
            writes.changes(&symbol, &changes);
            if !changes.all_closed {
                if self.indexed.insert(symbol.clone()) {
                    writes.opened(&symbol);
                }
            } else {
                if self.indexed.remove(&symbol) {
                    writes.closed(&symbol);
                }
                if idle_us.is_some() {
                    self.symbols.remove(&symbol);
                }
            }
        }
        metrics::SYMBOLS.set(
            &self.admission.partition.to_string(),
            f64::from(u32::try_from(self.symbols.len()).unwrap_or(u32::MAX)),
        );
    }

    /// Loads what Redis holds of `symbols`: their current candles and, of those that have any, the displaced ones that may still
    /// be amended.
    async fn load(&mut self, symbols: Vec<Symbol>) -> Result<()> {
        let mut states: Vec<SymbolState> = symbols.into_iter().map(SymbolState::new).collect();
        let current = |state: &SymbolState| {
            Timeframe::ALL
                .map(|timeframe| (timeframe, keys::candle_current(timeframe, &state.symbol)))
                .to_vec()
        };
        restore(&mut self.conn, &mut states, current, SymbolState::restore_current).await?;
        let recent = |state: &SymbolState| recent_keys(state, &self.rules);
        restore(&mut self.conn, &mut states, recent, SymbolState::restore).await?;
        self.symbols
            .extend(states.into_iter().map(|state| (state.symbol.clone(), state)));
        Ok(())
    }

    /// Notes the trades of the dedup window before the position, so that a new owner knows them. Those that became dead letters
    /// were not counted.
    async fn remember_trades(&mut self) -> Result<()> {
        let window_ms = u64::try_from(self.config.hot.dedup_window.as_millis())?;
        let from = StreamId::at_ms(self.position.ms.saturating_sub(window_ms));
        let stream = Stream::Ticks(self.admission.partition);
        let key = stream.key().to_string();
        let mut dead = HashSet::new();
        let mut letters = Pages::new(Stream::Dead, from, StreamId::END);
        while let Some(entries) = letters.next(&mut self.conn).await? {
            let letters = entries.iter().map(dead::decode_entry);
            dead.extend(letters.filter(|letter| letter.stream == key).map(|letter| letter.id));
        }
        let mut ticks = Pages::new(stream, from, self.position);
        while let Some(entries) = ticks.next(&mut self.conn).await? {
            for entry in entries.iter().filter(|entry| !dead.contains(&entry.id)) {
                if let Ok(Countable { accepted, .. }) = self.admission.decode(entry, &self.decimals)
                    && let Some(id) = accepted.dedup_id()
                {
                    self.dedup.note(&accepted.tick.symbol, &id, entry.id.ms);
                }
            }
        }
        Ok(())
    }
}

/// Reads the candles at each state's `keys` into it.
async fn restore<K>(
    conn: &mut Connection,
    states: &mut [SymbolState],
    keys: K,
    take: impl Fn(&mut SymbolState, Timeframe, CandleState),
) -> Result<()>
where
    K: Fn(&SymbolState) -> Vec<(Timeframe, keys::Key)>,
{
    let wanted: Vec<_> = states
        .iter()
        .enumerate()
        .flat_map(|(at, state)| {
            keys(state)
                .into_iter()
                .map(move |(timeframe, key)| (at, timeframe, key))
        })
        .collect();
    let names: Vec<_> = wanted.iter().map(|(_, _, key)| key.clone()).collect();
    let candles = hot::candles(conn, &names).await?;
    for ((at, timeframe, _), candle) in wanted.iter().zip(candles) {
        if let Some(candle) = candle {
            take(&mut states[*at], *timeframe, candle);
        }
    }
    Ok(())
}

/// The keys at which a symbol's displaced candles may be, if it has a current one.
fn recent_keys(state: &SymbolState, rules: &Rules) -> Vec<(Timeframe, keys::Key)> {
    let mut found = Vec::new();
    for timeframe in Timeframe::ALL {
        let Some(current_us) = state.frames[timeframe as usize].keys().next_back().copied() else {
            continue;
        };
        let mut start_us = current_us - timeframe.micros();
        while rules.amendable_until_us(start_us + timeframe.micros()) > state.watermark_us {
            found.push((timeframe, keys::candle_recent(timeframe, &state.symbol, start_us)));
            start_us -= timeframe.micros();
        }
    }
    found
}
