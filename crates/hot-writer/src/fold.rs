//! Folds ticks into a symbol's candles. Pure: no clock, no connection.
//!
//! Every candle has the `revision` of the last entry folded into it, so folding an entry again changes nothing. A new
//! owner may therefore start from any earlier entry.

use std::time::Duration;

use storage_core::domain::candle::{Candle, CandleState};
use storage_core::domain::lots::{Lots, LotsError};
use storage_core::domain::stream_id::Revision;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::time::{duration_ms, duration_us};
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles::ChangedFields;

use crate::decode::DecodedTick;
use crate::series::{BaseStatus, CandleSeries, RequiredBase, TrackedCandle};

/// Lateness rules. Times are event times in µs unless the name says otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Time from the end of a bucket to its close.
    pub(crate) close_grace_us: i64,
    /// Time from the close of a bucket until a late tick no longer amends it.
    pub(crate) amend_window_us: i64,
    /// Minimum time for which a trade ID is remembered, in ms of stream time.
    pub(crate) dedup_window_ms: u64,
}

impl Rules {
    /// Creates the rules from the settings of the same names.
    pub fn new(close_grace: Duration, amend_window: Duration, dedup_window: Duration) -> Self {
        Self {
            close_grace_us: duration_us(close_grace),
            amend_window_us: duration_us(amend_window),
            dedup_window_ms: duration_ms(dedup_window),
        }
    }

    /// Returns the event time until which a bucket that ends at `end_us` may be amended.
    pub(crate) fn amendable_until_us(&self, end_us: i64) -> i64 {
        end_us + self.close_grace_us + self.amend_window_us
    }

    /// Returns `true` if a bucket can no longer be amended once a tick of the event time `watermark_us` was folded.
    pub(crate) fn is_over(&self, timeframe: Timeframe, start_us: i64, watermark_us: i64) -> bool {
        self.amendable_until_us(start_us + timeframe.micros()) <= watermark_us
    }
}

/// Outcome of folding a tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folded {
    /// The tick is in its minute.
    Counted,
    /// The tick came too late for its minute, which has to be computed again from the history.
    TooLate {
        /// Start of the minute.
        start_us: i64,
    },
}

/// Decision about a tick. That of its minute applies to all timeframes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The candle counts the tick.
    Counts,
    /// The candle can no longer be changed. Before that an earlier owner may have counted the tick.
    Unknown,
    /// The candle can no longer be changed and does not count the tick.
    TooLate,
}

/// A symbol's candles of all timeframes that are open or may still be amended.
#[derive(Clone, Debug)]
pub struct SymbolState {
    pub(crate) symbol: Symbol,
    pub(crate) series: [CandleSeries; Timeframe::ALL.len()],
    /// Greatest event time so far.
    pub(crate) watermark_us: i64,
    /// Stream time of the last entry.
    pub(crate) last_entry_ms: u64,
    /// The last entry whose effects an earlier owner has announced. It is the highest revision of the current candles,
    /// because announcements are written before these.
    announced_until: Revision,
    /// By timeframe, the event time up to which Redis may have lost candles. A candle that is created in such a bucket
    /// requires a base.
    lost_until_us: [i64; Timeframe::ALL.len()],
    /// Upper limit for `lost_until_us` if Redis held nothing of the symbol; the first tick determines the actual value.
    max_lost_us: Option<i64>,
    /// This owner folds every entry after this one.
    position: Option<Revision>,
    /// The newest tick by event time, if it has not been written.
    pub(crate) latest: Option<AcceptedTick>,
    /// `true` if a tick was folded since the changes were taken.
    pub(crate) is_changed: bool,
    /// Candles with an amended trade that are not here, by timeframe and start. Redis may still hold them, because an
    /// earlier owner ended before it removed them.
    pub(crate) outdated: Vec<(Timeframe, i64)>,
}

impl SymbolState {
    /// Creates the state of a symbol without candles.
    pub fn new(symbol: Symbol) -> Self {
        Self {
            symbol,
            series: Default::default(),
            watermark_us: i64::MIN,
            last_entry_ms: 0,
            announced_until: Revision::default(),
            lost_until_us: [i64::MIN; Timeframe::ALL.len()],
            max_lost_us: None,
            position: None,
            latest: None,
            is_changed: false,
            outdated: Vec::new(),
        }
    }

    /// Returns `true` if the symbol has a candle in any timeframe.
    pub(crate) fn has_candles(&self) -> bool {
        self.series.iter().any(|series| series.current_start_us().is_some())
    }

    /// Restores a current candle that an earlier owner has written.
    pub(crate) fn restore_current(&mut self, timeframe: Timeframe, state: CandleState) {
        self.announced_until = self.announced_until.max(state.candle.revision);
        self.restore(timeframe, state);
    }

    /// Restores a candle that an earlier owner has written. The state with the higher revision is kept.
    pub(crate) fn restore(&mut self, timeframe: Timeframe, state: CandleState) {
        let CandleState { candle, is_final } = state;
        self.watermark_us = self.watermark_us.max(candle.last_us);
        self.last_entry_ms = self.last_entry_ms.max(candle.revision.stream_id().ms);
        let series = &mut self.series[timeframe as usize];
        let known = series
            .at_mut(timeframe, candle.start_us)
            .map(|tracked| (tracked.candle.revision, tracked.is_final));
        if known.is_none_or(|known| known < (candle.revision, is_final)) {
            series.insert(TrackedCandle::stored(candle, is_final));
        }
    }

    /// Determines which candles Redis may have lost although it held others of the symbol: all candles of a timeframe
    /// without a current candle, and displaced candles that were last written before `kept_since_us`. A displaced
    /// candle was last written before the current one began, by at most the difference of their event times, because
    /// market time does not run slower than the clock.
    pub(crate) fn mark_expired(&mut self, kept_since_us: i64) {
        for (timeframe, lost_until_us) in Timeframe::ALL.into_iter().zip(&mut self.lost_until_us) {
            *lost_until_us = match self.series[timeframe as usize].iter().last() {
                None => self.watermark_us,
                Some(TrackedCandle { candle, .. }) => {
                    let lead_us = kept_since_us - candle.since.stream_id().accepted_us();
                    candle.start_us - timeframe.micros() + lead_us.min(0)
                }
            };
        }
    }

    /// Marks all candles of the symbol as possibly lost, with ticks up to the event time `until_us`.
    pub(crate) fn mark_lost(&mut self, until_us: i64) {
        self.max_lost_us = Some(until_us);
    }

    /// Sets the position after which this owner folds every entry.
    pub(crate) fn set_position(&mut self, position: Revision) {
        self.position = Some(position);
    }

    /// Requires bases for the candles that contain `ts_us`, the event time of a trade that only the history can change
    /// or count. The hashes of candles that are no longer here are removed; one that is created again requires a base.
    pub(crate) fn amend(&mut self, ts_us: i64, revision: Revision) {
        self.last_entry_ms = self.last_entry_ms.max(revision.stream_id().ms);
        for timeframe in Timeframe::ALL {
            if !self.amend_candle(timeframe, ts_us, revision) {
                let start_us = timeframe.bucket_start_us(ts_us);
                self.outdated.push((timeframe, start_us));
                let lost_until_us = &mut self.lost_until_us[timeframe as usize];
                *lost_until_us = start_us.max(*lost_until_us);
            }
        }
    }

    /// Requires a base for the candle that contains `ts_us`. Returns `false` if the candle is not here.
    fn amend_candle(&mut self, timeframe: Timeframe, ts_us: i64, revision: Revision) -> bool {
        let tracked = self.series[timeframe as usize].at_mut(timeframe, ts_us);
        tracked.map(|tracked| tracked.amend(revision)).is_some()
    }

    /// Returns `true` while a candle awaits the base up to `until`.
    pub(crate) fn awaits_base(&self, timeframe: Timeframe, start_us: i64, until: Revision) -> bool {
        let requested = Some(RequiredBase {
            until,
            status: BaseStatus::Requested,
        });
        let mut series = self.series[timeframe as usize].iter();
        series.any(|tracked| tracked.candle.start_us == start_us && tracked.base == requested)
    }

    /// Joins a candle with `base`, the candle of the bucket's ticks up to `until`. Returns `false` if the
    /// candle did not request exactly this base.
    pub(crate) fn join_base(
        &mut self,
        timeframe: Timeframe,
        start_us: i64,
        until: Revision,
        base: Option<Candle>,
    ) -> bool {
        let requested = RequiredBase {
            until,
            status: BaseStatus::Requested,
        };
        let tracked = self.series[timeframe as usize].at_mut(timeframe, start_us);
        let Some(tracked) = tracked.filter(|tracked| tracked.base == Some(requested)) else {
            return false;
        };
        if tracked.join_base(base, until).is_none() {
            return false;
        }
        self.watermark_us = self.watermark_us.max(tracked.candle.last_us);
        tracked.changed = ChangedFields::ALL;
        tracked.is_dirty = true;
        true
    }

    /// Folds a tick from before the position again because Redis has lost its minute. A candle that it creates requires
    /// a base.
    ///
    /// # Errors
    /// The same as [`Self::fold`].
    pub(crate) fn refold(&mut self, tick: &DecodedTick, rules: &Rules) -> Result<Folded, LotsError> {
        if self.has_candles() {
            for lost_until_us in &mut self.lost_until_us {
                *lost_until_us = tick.accepted.tick.ts_us.max(*lost_until_us);
            }
        }
        self.fold(tick, rules)
    }

    /// Folds a tick into the candles of every timeframe. If its minute can no longer be changed here, the larger
    /// candles get the tick from the history, too, which knows whether it repeats a trade that is forgotten here.
    ///
    /// # Errors
    /// [`LotsError::TooLarge`] if the volume of the minute would exceed bigint; the state is unchanged then.
    pub fn fold(&mut self, decoded: &DecodedTick, rules: &Rules) -> Result<Folded, LotsError> {
        let DecodedTick { accepted, qty, .. } = decoded;
        let ts_us = accepted.tick.ts_us;
        if let Some(minute) = self.series[Timeframe::M1 as usize].at_mut(Timeframe::M1, ts_us)
            && minute.candle.revision < accepted.revision
        {
            let volume = minute.candle.volume.checked_add(*qty).ok_or(LotsError::TooLarge)?;
            if Lots::of(volume, decoded.decimals) == Err(LotsError::TooLarge) {
                return Err(LotsError::TooLarge);
            }
        }
        self.last_entry_ms = self.last_entry_ms.max(accepted.revision.stream_id().ms);
        if let Some(max_lost_us) = self.max_lost_us.take() {
            // In a replay of past trades the watermark of the symbol is near the event time of the first trade, not
            // near the clock.
            let known_until_us = rules.amendable_until_us(ts_us);
            let is_replayed = max_lost_us - known_until_us > Timeframe::D1.micros();
            self.lost_until_us
                .fill(if is_replayed { known_until_us } else { max_lost_us });
        }
        let minute = self.fold_into(Timeframe::M1, decoded, rules);
        for timeframe in Timeframe::ALL {
            match minute {
                Verdict::Counts if timeframe == Timeframe::M1 => {}
                Verdict::Counts => {
                    self.fold_into(timeframe, decoded, rules);
                }
                Verdict::Unknown | Verdict::TooLate => self.await_tick(timeframe, decoded, rules),
            }
        }
        self.watermark_us = self.watermark_us.max(ts_us);
        Ok(match minute {
            Verdict::Counts | Verdict::Unknown => Folded::Counted,
            Verdict::TooLate => Folded::TooLate {
                start_us: Timeframe::M1.bucket_start_us(ts_us),
            },
        })
    }

    /// Requires a base that contains a tick, for a candle that may still be amended.
    fn await_tick(&mut self, timeframe: Timeframe, decoded: &DecodedTick, rules: &Rules) {
        let DecodedTick { accepted, qty, .. } = decoded;
        let (ts_us, revision) = (accepted.tick.ts_us, accepted.revision);
        let is_over = rules.is_over(timeframe, timeframe.bucket_start_us(ts_us), self.watermark_us);
        if !self.amend_candle(timeframe, ts_us, revision) && !is_over {
            let candle = Candle::of_tick(timeframe, ts_us, accepted.tick.price, *qty, revision);
            self.series[timeframe as usize].insert(TrackedCandle::awaited(candle));
        }
    }

    /// Folds a tick into one timeframe.
    fn fold_into(&mut self, timeframe: Timeframe, decoded: &DecodedTick, rules: &Rules) -> Verdict {
        let DecodedTick { accepted, qty, .. } = decoded;
        let tick = &accepted.tick;
        let series = &mut self.series[timeframe as usize];
        if let Some(tracked) = series.at_mut(timeframe, tick.ts_us) {
            if tracked.candle.revision >= accepted.revision {
                return Verdict::Counts;
            }
            // Beyond the dedup window the same trade could be counted twice; the history knows every trade ID.
            let since_ms = tracked.candle.since.stream_id().ms;
            if timeframe == Timeframe::M1
                && accepted.revision.stream_id().ms > since_ms.saturating_add(rules.dedup_window_ms)
            {
                return Verdict::TooLate;
            }
            let Some(volume) = tracked.candle.volume.checked_add(*qty) else {
                return Verdict::TooLate;
            };
            let before = tracked.candle.clone();
            tracked.candle.fold(tick.ts_us, tick.price, volume, accepted.revision);
            if let Some(amended) = &mut tracked.amended {
                let later = amended.later.take();
                amended.later = Some(match later {
                    Some(mut later) => {
                        let Some(volume) = later.volume.checked_add(*qty) else {
                            return Verdict::TooLate;
                        };
                        later.fold(tick.ts_us, tick.price, volume, accepted.revision);
                        later
                    }
                    None => Candle::of_tick(timeframe, tick.ts_us, tick.price, *qty, accepted.revision),
                });
            }
            tracked.is_dirty = true;
            tracked.changed = tracked.changed.or(ChangedFields::between(&before, &tracked.candle));
            tracked.must_send = tracked.is_final;
            return Verdict::Counts;
        }
        let candle = Candle::of_tick(timeframe, tick.ts_us, tick.price, *qty, accepted.revision);
        if rules.is_over(timeframe, candle.start_us, self.watermark_us) {
            // An earlier owner may have folded this entry into a candle that has expired since.
            return match accepted.revision <= self.announced_until {
                true => Verdict::Unknown,
                false => Verdict::TooLate,
            };
        }
        let base = (candle.start_us <= self.lost_until_us[timeframe as usize]).then(|| RequiredBase {
            // An earlier owner has folded nothing after the position. If Redis was restored from a backup, the history
            // may also hold ticks after the position. The stream contains these again, and this owner folds them.
            until: self.position.unwrap_or(candle.revision).min(candle.revision.before()),
            status: BaseStatus::Needed,
        });
        let displaced = series.insert(TrackedCandle {
            is_dirty: true,
            changed: ChangedFields::ALL,
            base,
            ..TrackedCandle::stored(candle, false)
        });
        if let Some(displaced) = displaced {
            // It moves from `candle:current:*` to `candle:recent:*`.
            displaced.is_dirty = true;
        }
        Verdict::Counts
    }
}
