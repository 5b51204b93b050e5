//! Closes candles: by the event times of the symbol, or by the clock once the symbol is idle. Pure.

use storage_core::domain::candle::Candle;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::time::ms_to_us;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles::ChangedFields;

use crate::fold::{Rules, SymbolState};
use crate::series::{BaseStatus, CandleSeries, TrackedCandle};

#[cfg(test)]
mod tests;

/// Changes of a symbol's candles that have to be written.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) candles: Vec<CandleChange>,
    /// Candles that can no longer be amended, by timeframe and start.
    pub(crate) expired: Vec<(Timeframe, i64)>,
    /// Bases to request, by timeframe, start and the last entry that belongs to the base.
    pub(crate) bases: Vec<(Timeframe, i64, Revision)>,
    /// Number of these bases for candles whose first ticks Redis may have lost.
    pub(crate) incomplete: u64,
    /// Repairs to request, by start of the minute and the last entry that the repair must contain: minutes that closed
    /// or changed although Redis may have lost some of their ticks, or some were amended.
    pub(crate) repairs: Vec<(i64, Revision)>,
    /// `true` if no candle is open.
    pub(crate) all_closed: bool,
}

/// A candle to write.
#[derive(Debug)]
pub(crate) struct CandleChange {
    pub(crate) timeframe: Timeframe,
    pub(crate) candle: Candle,
    /// Fields that have changed since the candle was last taken.
    pub(crate) changed: ChangedFields,
    pub(crate) is_final: bool,
    /// `true` if the candle is the newest of its timeframe.
    pub(crate) is_current: bool,
    /// `true` if the candle is a closed minute that has to be sent to the history.
    pub(crate) must_send: bool,
    /// `true` if the candle was closed before.
    pub(crate) is_amendment: bool,
}

impl Changes {
    /// Returns `true` if there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.candles.is_empty() && self.expired.is_empty() && self.bases.is_empty() && self.repairs.is_empty()
    }
}

impl SymbolState {
    /// Closes candles and takes the changes that have to be written. All entries that Redis accepted before `idle_us`
    /// have been read; without it, no candle is closed by the clock.
    pub(crate) fn take_changes(&mut self, rules: &Rules, idle_us: Option<i64>) -> Changes {
        let idle_until_us = idle_us.filter(|now_us| self.becomes_idle(*now_us, rules));
        let closed_until_us = self.watermark_us.max(idle_until_us.unwrap_or(i64::MIN));
        // A candle that may still be amended was restored if Redis held it, and a late tick may create it again.
        let watermark_us = self.watermark_us;
        let is_over = |timeframe, start_us| rules.is_over(timeframe, start_us, watermark_us);
        let mut outdated = std::mem::take(&mut self.outdated);
        outdated.retain(|(timeframe, start_us)| is_over(*timeframe, *start_us));
        let mut changes = Changes {
            expired: outdated,
            all_closed: true,
            ..Changes::default()
        };
        for (timeframe, series) in Timeframe::ALL.into_iter().zip(&mut self.series) {
            let current_us = series.current_start_us().unwrap_or(i64::MIN);
            let end_us = |tracked: &TrackedCandle| tracked.candle.start_us + timeframe.micros();
            for tracked in series.iter_mut() {
                let was_final = tracked.is_final;
                if !was_final && end_us(tracked) + rules.close_grace_us <= closed_until_us {
                    tracked.is_final = true;
                    tracked.is_dirty = true;
                    tracked.must_send = true;
                }
                changes.all_closed &= tracked.is_final && !tracked.awaits_base();
                if let Some(base) = &mut tracked.base
                    && base.status == BaseStatus::Needed
                {
                    base.status = BaseStatus::Requested;
                    changes.incomplete += u64::from(tracked.amended.is_none());
                    changes.bases.push((timeframe, tracked.candle.start_us, base.until));
                }
                let is_uncertain = tracked.base.is_some() || tracked.candle.trades == 0;
                if is_uncertain && std::mem::take(&mut tracked.must_send) && timeframe == Timeframe::M1 {
                    changes.repairs.push((tracked.candle.start_us, tracked.candle.revision));
                }
                if tracked.is_incomplete() {
                    continue;
                }
                if std::mem::take(&mut tracked.is_dirty) {
                    changes.candles.push(CandleChange {
                        timeframe,
                        candle: tracked.candle.clone(),
                        changed: std::mem::take(&mut tracked.changed),
                        is_final: tracked.is_final,
                        is_current: tracked.candle.start_us == current_us,
                        must_send: std::mem::take(&mut tracked.must_send) && timeframe == Timeframe::M1,
                        is_amendment: was_final,
                    });
                }
            }
            series.retain(|tracked| {
                let start_us = tracked.candle.start_us;
                // The correction of an amended candle is published, although the answer comes when the candle is over.
                let keep = start_us == current_us || !is_over(timeframe, start_us) || tracked.amended.is_some();
                if !keep {
                    changes.expired.push((timeframe, start_us));
                }
                keep
            });
        }
        changes
    }

    /// Returns `true` if no candle is open, and the latest tick and all changes were taken.
    pub(crate) fn is_settled(&self) -> bool {
        let mut candles = self.series.iter().flat_map(CandleSeries::iter);
        !self.is_changed
            && self.latest.is_none()
            && candles.all(|tracked| tracked.is_final && !tracked.is_dirty && !tracked.awaits_base())
    }

    /// Returns `true` if the symbol's last entry is older than the close grace. An entry whose ID is ahead of the
    /// clock, because the clock was set back or a client has chosen the ID, counts as accepted now.
    fn becomes_idle(&mut self, now_us: i64, rules: &Rules) -> bool {
        self.last_entry_ms = self
            .last_entry_ms
            .min(u64::try_from(now_us / 1_000).unwrap_or_default());
        now_us.saturating_sub(ms_to_us(self.last_entry_ms)) >= rules.close_grace_us
    }
}
