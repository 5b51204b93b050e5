//! Closes the candles of idle symbols by the clock, some symbols in each step between two reads.

use std::time::Instant;

use redis::RedisResult;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::time::{duration_ms, ms_to_us};
use storage_core::redis::clock::now_ms;

use super::FoldTask;
use crate::fold::SymbolState;
use crate::metrics;
use crate::read::BLOCK;

/// Minimum ratio of the time between two checks of all symbols for idle ones to the duration of a check.
const IDLE_CHECK_FACTOR: u32 = 10;

/// Maximum number of symbols that are checked in one step, between two reads.
const MAX_IDLE_CHECKS: usize = 1_000;

/// Check of all symbols for candles that are closed by the clock.
pub(super) struct IdleCheck {
    pub(super) begun: Instant,
    pub(super) next: Instant,
    /// All entries that Redis accepted before this time have been read, in µs since 1970.
    pub(super) until_us: i64,
    /// Symbols to check.
    pub(super) unchecked: Vec<Symbol>,
    /// Symbols that had no open candles, with the batch that contains their closed ones.
    pub(super) settled: Vec<(Symbol, u64)>,
}

impl IdleCheck {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            begun: now,
            next: now + BLOCK,
            until_us: 0,
            unchecked: Vec::new(),
            settled: Vec::new(),
        }
    }
}

impl FoldTask {
    /// Begins to check all symbols if a check is due.
    pub(super) async fn begin_idle_check(&mut self) -> RedisResult<()> {
        let now = Instant::now();
        if now < self.idle_check.next || !self.idle_check.unchecked.is_empty() {
            return Ok(());
        }
        self.idle_check.until_us = ms_to_us(self.idle_until_ms().await?);
        self.idle_check.begun = now;
        self.idle_check.unchecked.extend(self.symbols.keys().cloned());
        let written = *self.written.borrow();
        let settled = std::mem::take(&mut self.idle_check.settled);
        let (removable, kept) = settled.into_iter().partition(|(_, batch)| *batch <= written);
        self.idle_check.settled = kept;
        for (symbol, _) in removable {
            // A tick may have arrived meanwhile.
            if self.symbols.get(&symbol).is_some_and(SymbolState::is_settled) {
                self.symbols.remove(&symbol);
            }
        }
        let now_ms = u64::try_from(self.idle_check.until_us / 1_000).unwrap_or_default();
        self.dedup.remove_expired(now_ms);
        metrics::SYMBOLS.set(
            &self.decoder.rules.partition.to_string(),
            f64::from(u32::try_from(self.symbols.len()).unwrap_or(u32::MAX)),
        );
        if self.idle_check.unchecked.is_empty() {
            self.idle_check.next = now + BLOCK;
        }
        Ok(())
    }

    /// Returns `true` if symbols are left to check and the batch has room for their closed candles.
    pub(super) fn checks_idle(&self) -> bool {
        !self.idle_check.unchecked.is_empty() && !self.batch.has_many_closed()
    }

    /// Closes the candles of idle symbols, for some of the symbols that are left to check.
    pub(super) fn check_idle(&mut self) {
        let left = self.idle_check.unchecked.len().saturating_sub(MAX_IDLE_CHECKS);
        for symbol in self.idle_check.unchecked.split_off(left) {
            self.take_changes(&symbol, Some(self.idle_check.until_us));
        }
        if self.idle_check.unchecked.is_empty() {
            let now = Instant::now();
            self.idle_check.next = now + BLOCK.max((now - self.idle_check.begun) * IDLE_CHECK_FACTOR);
        }
    }

    /// Returns the time, in ms since 1970 by the clock of Redis, before which every accepted entry has been read: the
    /// time of the last read, or in a backlog the time of its last entry.
    async fn idle_until_ms(&mut self) -> RedisResult<u64> {
        if self.backlog.is_behind() {
            // An ID of the future is no time until which all entries have been read.
            return Ok(self.position.ms.min(self.decoder.now_ms()));
        }
        let asked = Instant::now();
        let now_ms = now_ms(&mut self.conn).await?;
        self.ages.set_clock(now_ms, asked.elapsed());
        Ok(now_ms.saturating_sub(duration_ms(self.last_read.elapsed())))
    }
}
