//! Folding ticks into a symbol's candles. Pure: no clock, no connection.
//!
//! Every candle knows the last entry folded in (`revision`), so folding an entry again changes nothing, and it does not matter
//! from how far back a new owner begins.

use std::time::Duration;

use storage_core::domain::candle::Candle;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::lots::{Lots, LotsError};
use storage_core::domain::stream_id::Revision;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles::CandleState;

use crate::frame::{Base, Doubt, Frame, Slot};

/// How late is late, in µs of event time where not said otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long a bucket stays open after its end.
    pub(crate) close_grace_us: i64,
    /// For how long after that a late tick amends it.
    pub(crate) amend_window_us: i64,
    /// For how long a trade ID is surely remembered, in ms of stream time.
    pub(crate) dedup_window_ms: u64,
}

impl Rules {
    /// Creates the rules from the settings of the same names.
    pub fn new(close_grace: Duration, amend_window: Duration, dedup_window: Duration) -> Self {
        let micros = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4);
        Self {
            close_grace_us: micros(close_grace),
            amend_window_us: micros(amend_window),
            dedup_window_ms: u64::try_from(dedup_window.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Until when, in event time, a bucket that ends at `end_us` may be amended.
    pub(crate) fn amendable_until_us(&self, end_us: i64) -> i64 {
        end_us + self.close_grace_us + self.amend_window_us
    }
}

/// What became of a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folded {
    /// It is in its minute.
    Counted,
    /// It came too late for its minute, which has to be computed again.
    TooLate {
        /// The minute's start.
        start_us: i64,
    },
}

/// A symbol's candles of all timeframes that are open or may still be amended, the newest of each being the current one.
#[derive(Clone, Debug)]
pub struct SymbolState {
    pub(crate) symbol: Symbol,
    pub(crate) frames: [Frame; Timeframe::ALL.len()],
    /// The greatest event time so far.
    pub(crate) watermark_us: i64,
    /// The stream's time of the last entry.
    pub(crate) last_entry_ms: u64,
    /// The last entry whose effects an earlier owner has all told of: what goes to other streams is written before the current
    /// candles are.
    told_until: Revision,
    /// By timeframe, buckets that begin up to this event time may have had a candle that Redis has lost, unless it is here: then what
    /// is folded into them is doubtful.
    doubt_until_us: [i64; Timeframe::ALL.len()],
    /// The same where only an upper limit is known: Redis held nothing of the symbol. The first tick tells more.
    lost_until_us: Option<i64>,
    /// This owner folds every entry after this one.
    position: Option<Revision>,
    /// The newest tick by event time, when it has changed since the last write.
    pub(crate) latest: Option<AcceptedTick>,
    /// Has been folded into since the last write.
    pub(crate) is_touched: bool,
}

impl SymbolState {
    /// Creates the state of a symbol without candles.
    pub fn new(symbol: Symbol) -> Self {
        Self {
            symbol,
            frames: Default::default(),
            watermark_us: i64::MIN,
            last_entry_ms: 0,
            told_until: Revision::default(),
            doubt_until_us: [i64::MIN; Timeframe::ALL.len()],
            lost_until_us: None,
            position: None,
            latest: None,
            is_touched: false,
        }
    }

    /// Whether there are any.
    pub(crate) fn has_candles(&self) -> bool {
        self.frames.iter().any(|frame| frame.current_us().is_some())
    }

    /// Takes over a current candle that another owner has written.
    pub(crate) fn restore_current(&mut self, timeframe: Timeframe, state: CandleState) {
        self.told_until = self.told_until.max(state.candle.revision);
        self.restore(timeframe, state);
    }

    /// Takes over a candle that another owner has written; of two states the one with the higher revision counts.
    pub(crate) fn restore(&mut self, timeframe: Timeframe, state: CandleState) {
        let CandleState { candle, is_final } = state;
        self.watermark_us = self.watermark_us.max(candle.last_us);
        self.last_entry_ms = self.last_entry_ms.max(candle.revision.stream_id().ms);
        let frame = &mut self.frames[timeframe as usize];
        let known = frame
            .of_mut(timeframe, candle.start_us)
            .map(|slot| (slot.candle.revision, slot.is_final));
        if known.is_none_or(|known| known < (candle.revision, is_final)) {
            frame.insert(Slot::held(candle, is_final));
        }
    }

    /// Notes what Redis may have lost beside the candles that it held: those of a timeframe without a current candle, and displaced ones
    /// that were last written before `kept_since_ms`. How much earlier than the current one they were written, their event times tell,
    /// as market time does not run slower than the clock.
    pub(crate) fn restored(&mut self, kept_since_ms: i64) {
        for (timeframe, doubt_until_us) in Timeframe::ALL.into_iter().zip(&mut self.doubt_until_us) {
            *doubt_until_us = match self.frames[timeframe as usize].slots().last() {
                None => self.watermark_us,
                Some(Slot { candle, .. }) => {
                    let lead_us = kept_since_ms.saturating_mul(1_000) - candle.since.stream_id().accepted_us();
                    candle.start_us - timeframe.micros() + lead_us.min(0)
                }
            };
        }
    }

    /// Notes that all of the symbol's candles may have been lost, with ticks up to the event time `until_us`.
    pub(crate) fn has_lost(&mut self, until_us: i64) {
        self.lost_until_us = Some(until_us);
    }

    /// Notes that this owner folds every entry after `position`.
    pub(crate) fn begins_after(&mut self, position: Revision) {
        self.position = Some(position);
    }

    /// Returns `true` while the beginning of a candle has not come.
    pub(crate) fn awaits(&self, timeframe: Timeframe, start_us: i64) -> bool {
        let mut slots = self.frames[timeframe as usize].slots();
        slots.any(|slot| slot.candle.start_us == start_us && slot.is_incomplete())
    }

    /// Joins a candle that was in doubt with `base`, the candle of the bucket's ticks up to `until`. Returns `false` if it was not
    /// waiting for just that.
    pub(crate) fn join(&mut self, timeframe: Timeframe, start_us: i64, until: Revision, base: Option<Candle>) -> bool {
        let awaited = Doubt {
            until,
            base: Base::Requested,
        };
        let slot = self.frames[timeframe as usize].of_mut(timeframe, start_us);
        let Some(slot) = slot.filter(|slot| slot.doubt == Some(awaited)) else {
            return false;
        };
        if let Some(base) = base {
            let Some(joined) = base.join(&slot.candle) else {
                return false;
            };
            self.watermark_us = self.watermark_us.max(joined.last_us);
            slot.candle = joined;
        }
        slot.doubt = Some(Doubt {
            until,
            base: Base::Joined,
        });
        slot.is_dirty = true;
        true
    }

    /// Folds a tick from before the position again, whose minute Redis has lost. Where it opens a candle, that is in doubt.
    ///
    /// # Errors
    /// As [`Self::fold`].
    pub(crate) fn fold_again(
        &mut self,
        accepted: &AcceptedTick,
        qty: Decimal,
        decimals: u8,
        rules: &Rules,
    ) -> Result<Folded, LotsError> {
        if self.has_candles() {
            for doubt_until_us in &mut self.doubt_until_us {
                *doubt_until_us = accepted.tick.ts_us.max(*doubt_until_us);
            }
        }
        self.fold(accepted, qty, decimals, rules)
    }

    /// Folds a tick, whose quantity in whole lots is `qty`, into every timeframe.
    ///
    /// # Errors
    /// When the minute's volume would leave bigint; then nothing is changed.
    pub fn fold(
        &mut self,
        accepted: &AcceptedTick,
        qty: Decimal,
        decimals: u8,
        rules: &Rules,
    ) -> Result<Folded, LotsError> {
        let tick = &accepted.tick;
        if let Some(slot) = self.frames[Timeframe::M1 as usize].of_mut(Timeframe::M1, tick.ts_us)
            && slot.candle.revision < accepted.revision
        {
            let volume = slot.candle.volume.checked_add(qty).ok_or(LotsError::TooLarge)?;
            if Lots::of(volume, decimals) == Err(LotsError::TooLarge) {
                return Err(LotsError::TooLarge);
            }
        }
        self.last_entry_ms = self.last_entry_ms.max(accepted.revision.stream_id().ms);
        if let Some(lost_until_us) = self.lost_until_us.take() {
            // Trades of the past that are replayed tell how far the symbol had come, give or take what may be late.
            let known_until_us = rules.amendable_until_us(tick.ts_us);
            let is_replayed = lost_until_us - known_until_us > Timeframe::D1.micros();
            self.doubt_until_us
                .fill(if is_replayed { known_until_us } else { lost_until_us });
        }
        let mut folded = Folded::Counted;
        for timeframe in Timeframe::ALL {
            let counted = self.fold_into(timeframe, accepted, qty, rules);
            if timeframe == Timeframe::M1 && !counted {
                folded = Folded::TooLate {
                    start_us: timeframe.bucket_start_us(tick.ts_us),
                };
            }
        }
        self.watermark_us = self.watermark_us.max(tick.ts_us);
        Ok(folded)
    }

    /// Folds into one timeframe; `false` when the bucket can't be changed any more.
    fn fold_into(&mut self, timeframe: Timeframe, accepted: &AcceptedTick, qty: Decimal, rules: &Rules) -> bool {
        let tick = &accepted.tick;
        let frame = &mut self.frames[timeframe as usize];
        if let Some(slot) = frame.of_mut(timeframe, tick.ts_us) {
            if slot.candle.revision >= accepted.revision {
                return true;
            }
            // Beyond the dedup window the same trade could be counted twice; the history can tell.
            let since_ms = slot.candle.since.stream_id().ms;
            if timeframe == Timeframe::M1
                && accepted.revision.stream_id().ms > since_ms.saturating_add(rules.dedup_window_ms)
            {
                return false;
            }
            let Some(volume) = slot.candle.volume.checked_add(qty) else {
                return false;
            };
            slot.candle.fold(tick.ts_us, tick.price, volume, accepted.revision);
            slot.is_dirty = true;
            slot.must_send = slot.is_final;
            return true;
        }
        let candle = Candle::of_tick(timeframe, tick.ts_us, tick.price, qty, accepted.revision);
        if rules.amendable_until_us(candle.start_us + timeframe.micros()) <= self.watermark_us {
            // Read again after a change of owner, it may be in a candle that has expired meanwhile.
            return accepted.revision <= self.told_until;
        }
        let doubt = (candle.start_us <= self.doubt_until_us[timeframe as usize]).then(|| Doubt {
            // An earlier owner has folded nothing after the position, which may lie before ticks of the bucket that the history holds:
            // those are in the stream again, when Redis was restored from a backup.
            until: self.position.unwrap_or(candle.revision).min(candle.revision.before()),
            base: Base::Needed,
        });
        let displaced = frame.insert(Slot {
            is_dirty: true,
            doubt,
            ..Slot::held(candle, false)
        });
        if let Some(displaced) = displaced {
            // It leaves `candle:current:*`, so it has to be written to where it goes.
            displaced.is_dirty = true;
        }
        true
    }
}
