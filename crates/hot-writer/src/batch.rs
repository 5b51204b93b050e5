//! The effects of folded entries, as the writer gets them.

use std::collections::BTreeMap;
use std::time::Instant;

use foldhash::HashMap;
use redis::Cmd;
use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::redis::codec::{dead, repairs};
use storage_core::redis::functions;
use storage_core::redis::keys::{self, Key};
use storage_core::redis::stream::Stream;

use crate::close::{CandleChange, Changes};
use crate::metrics;

/// Number of entries, of dead letters, or of closed candles from which a batch is full.
const MAX_ENTRIES: usize = 1_000_000;
const MAX_DEAD_LETTERS: usize = 5_000;
const MAX_CLOSED: usize = 1_000;

/// Effects of the entries since the previous batch.
#[derive(Default)]
pub(crate) struct Batch {
    /// The last entry.
    pub(crate) to: StreamId,
    /// Number of entries.
    pub(crate) entries: usize,
    /// Time at which the first entry was read.
    pub(crate) first_read: Option<Instant>,
    /// Number of messages to the publisher that contain the latest ticks up to this batch.
    pub(crate) latest_messages: u64,
    /// `true` if there is a backlog, so that the batch is written without regard to the budget.
    pub(crate) is_backlog: bool,
    pub(crate) dead_letters: Vec<Cmd>,
    pub(crate) repairs: BTreeMap<(Symbol, i64), Revision>,
    pub(crate) bases: Vec<repairs::Base>,
    /// Open candles that have changed.
    pub(crate) open: Vec<(Symbol, CandleChange)>,
    /// Candles that are displaced or closed, or were amended after their close.
    pub(crate) closed: Vec<(Symbol, CandleChange)>,
    pub(crate) expired: Vec<Key>,
    /// Symbols that have changed, each with `true` if it has open candles.
    pub(crate) symbols: HashMap<Symbol, bool>,
}

impl Batch {
    /// Creates an empty batch after the entry `from`.
    pub(crate) fn after(from: StreamId) -> Self {
        Self {
            to: from,
            ..Self::default()
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

    /// Returns `true` if the batch has to be written before more idle symbols are closed.
    pub(crate) fn has_many_closed(&self) -> bool {
        self.closed.len() >= MAX_CLOSED
    }

    /// Returns `true` if there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0 && self.symbols.is_empty()
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
        self.symbols.insert(symbol.clone(), !changes.all_closed);
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
            if change.is_current && !change.is_final {
                self.open.push((symbol.clone(), change));
            } else {
                self.closed.push((symbol.clone(), change));
            }
        }
    }
}
