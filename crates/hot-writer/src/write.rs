//! Writing what a batch has led to, in an order in which a crash between any two steps loses nothing.
//!
//! 1. What others must hear of: dead letters, repairs, closed minutes, and the candles that leave `candle:current:*`.
//! 2. The current candles and the latest ticks, which take the place of what was there before.
//! 3. The group's position, and what is not needed any more.
//!
//! Everything of one step may be repeated, and a later step follows only when the one before has succeeded.

use std::collections::BTreeMap;

use redis::{Pipeline, RedisResult, pipe};
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::{candles, dead, repairs, ticks};
use storage_core::redis::connection::Connection;
use storage_core::redis::functions::{self, Expiry};
use storage_core::redis::hot::{self, Term};
use storage_core::redis::keys;
use storage_core::redis::stream::{HOT_WRITER, Stream};

use crate::close::{Change, Changes};
use crate::config::HotConfig;
use crate::metrics;

/// The writes of one batch, by step.
pub(crate) struct Writes {
    partition: u16,
    term: Term,
    tick_ttl_ms: i64,
    amend_ttl_ms: i64,
    opened: Vec<Symbol>,
    closed: Vec<Symbol>,
    repairs: BTreeMap<(Symbol, i64), Revision>,
    announce: Pipeline,
    show: Pipeline,
    finish: Pipeline,
}

/// A candle's shortest TTL, in ms.
const MIN_CANDLE_TTL_MS: i64 = 60 * 60 * 1_000;
/// How much longer than it may be amended a displaced candle stays, in ms.
const RECENT_MARGIN_MS: i64 = 5 * 60 * 1_000;

impl Writes {
    pub(crate) fn new(partition: u16, term: Term, config: &HotConfig) -> Self {
        let millis = |duration: std::time::Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4);
        Self {
            partition,
            term,
            tick_ttl_ms: millis(config.tick_ttl),
            amend_ttl_ms: millis(config.close_grace + config.amend_window),
            opened: Vec::new(),
            closed: Vec::new(),
            repairs: BTreeMap::new(),
            announce: pipe(),
            show: pipe(),
            finish: pipe(),
        }
    }

    /// An entry that can't be used.
    pub(crate) fn dead_letter(&mut self, stream: Stream, entry: &Entry, reason: &Rejection) {
        metrics::DEAD_LETTERS.increment(reason.label(), 1);
        let letter = dead::DeadLetter::new(stream, entry, reason);
        self.announce
            .add_command(functions::announce(Stream::Dead, &dead::entry_fields(&letter)))
            .ignore();
    }

    /// A minute that must be computed again from the history, which holds everything up to `revision` then. One entry a batch
    /// is enough.
    pub(crate) fn repair(&mut self, symbol: &Symbol, start_us: i64, revision: Revision) {
        self.repairs.insert((symbol.clone(), start_us), revision);
    }

    /// The newest tick of a symbol.
    pub(crate) fn latest(&mut self, accepted: &AcceptedTick) {
        let symbol = &accepted.tick.symbol;
        let channel = keys::tick_channel(symbol);
        let message = ticks::message(accepted);
        let fields = ticks::hash_fields(accepted);
        let ttl = Expiry::AfterMs(self.tick_ttl_ms);
        let put = functions::put(
            &keys::tick_latest(symbol),
            accepted.revision,
            ttl,
            Some((&channel, &message)),
            &fields,
        );
        self.show.add_command(put).ignore();
    }

    /// What has changed in a symbol's candles.
    pub(crate) fn changes(&mut self, symbol: &Symbol, changes: &Changes) {
        for change in &changes.candles {
            self.candle(symbol, change);
        }
        for (timeframe, start_us) in &changes.expired {
            self.finish
                .add_command(hot::remove(&keys::candle_recent(*timeframe, symbol, *start_us)))
                .ignore();
        }
    }

    /// Notes that a symbol has open candles now.
    pub(crate) fn opened(&mut self, symbol: &Symbol) {
        self.opened.push(symbol.clone());
    }

    /// Notes that a symbol has no open candles any more.
    pub(crate) fn closed(&mut self, symbol: &Symbol) {
        self.closed.push(symbol.clone());
    }

    fn candle(&mut self, symbol: &Symbol, change: &Change) {
        let Change {
            timeframe,
            candle,
            is_final,
            ..
        } = change;
        if change.must_send {
            let counter = if change.is_amendment {
                &metrics::CANDLES_AMENDED
            } else {
                &metrics::CANDLES_CLOSED
            };
            counter.increment(1);
            let add = functions::announce(Stream::Candles(self.partition), &candles::entry_fields(symbol, candle));
            self.announce.add_command(add).ignore();
        }
        let (key, ttl_ms, step) = if change.is_current {
            (
                keys::candle_current(*timeframe, symbol),
                self.current_ttl_ms(*timeframe),
                &mut self.show,
            )
        } else {
            let key = keys::candle_recent(*timeframe, symbol, candle.start_us);
            (key, self.amend_ttl_ms + RECENT_MARGIN_MS, &mut self.announce)
        };
        let channel = keys::candle_channel(*timeframe, symbol);
        let message = candles::message(symbol, candle, *is_final);
        let fields = candles::hash_fields(candle, *is_final);
        step.add_command(functions::put(
            &key,
            candle.revision,
            Expiry::AfterMs(ttl_ms),
            Some((&channel, &message)),
            &fields,
        ))
        .ignore();
    }

    fn current_ttl_ms(&self, timeframe: Timeframe) -> i64 {
        (timeframe.seconds() * 1_000 + self.amend_ttl_ms).max(MIN_CANDLE_TTL_MS)
    }

    /// Writes everything and moves the position over `count` entries, from `from` to `to`.
    ///
    /// # Errors
    /// When a step fails. What has been written by then is right, and repeating the batch from what Redis holds completes it.
    pub(crate) async fn run(
        mut self,
        conn: &mut Connection,
        from: StreamId,
        to: StreamId,
        count: usize,
    ) -> RedisResult<()> {
        for ((symbol, start_us), revision) in self.repairs {
            let repair = repairs::Repair {
                symbol,
                start_us,
                revision,
            };
            self.announce
                .add_command(functions::announce(Stream::Repairs, &repairs::entry_fields(&repair)))
                .ignore();
        }
        if !self.opened.is_empty() {
            self.announce.add_command(self.term.opened(&self.opened)).ignore();
        }
        if !self.closed.is_empty() {
            self.finish.add_command(self.term.closed(&self.closed)).ignore();
        }
        if count > 0 {
            self.finish
                .add_command(functions::advance(
                    Stream::Ticks(self.partition),
                    HOT_WRITER,
                    from,
                    to,
                    count,
                ))
                .ignore();
        }
        for step in [self.announce, self.show, self.finish] {
            if !step.is_empty() {
                step.exec_async(conn).await?;
            }
        }
        Ok(())
    }
}
