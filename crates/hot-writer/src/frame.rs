//! [`Frame`]: a symbol's candles of one timeframe.

use storage_core::domain::candle::Candle;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::timeframe::Timeframe;

/// A candle in memory.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) candle: Candle,
    /// Closed: from now on it changes only by amendment.
    pub(crate) is_final: bool,
    /// Not written since it changed.
    pub(crate) is_dirty: bool,
    /// Closed or amended, and not sent since.
    pub(crate) must_send: bool,
    /// Where it began, if ticks of its bucket may be in a candle that Redis has lost.
    pub(crate) doubt: Option<Doubt>,
}

impl Slot {
    /// A candle as Redis holds it.
    pub(crate) fn held(candle: Candle, is_final: bool) -> Self {
        Self {
            candle,
            is_final,
            is_dirty: false,
            must_send: false,
            doubt: None,
        }
    }

    /// Whether the beginning of the candle has not been restored yet. Until then nobody is shown it.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.doubt.is_some_and(|doubt| doubt.base != Base::Joined)
    }
}

/// The ticks up to `until` may be missing in a candle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Doubt {
    pub(crate) until: Revision,
    pub(crate) base: Base,
}

/// What has become of the candle of the missing ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Needed,
    Requested,
    Joined,
}

/// The candles of one timeframe that are open or may still be amended, by their start; the newest is the current one. There are a
/// dozen at most, and nearly every tick is for the newest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame(Vec<Slot>);

impl Frame {
    /// The start of the current candle, in µs since 1970.
    pub(crate) fn current_us(&self) -> Option<i64> {
        self.0.last().map(|slot| slot.candle.start_us)
    }

    /// The candle of the bucket of `timeframe` that `ts_us` is in.
    pub(crate) fn of_mut(&mut self, timeframe: Timeframe, ts_us: i64) -> Option<&mut Slot> {
        let slot = self.0.iter_mut().rev().find(|slot| slot.candle.start_us <= ts_us)?;
        (ts_us < slot.candle.start_us + timeframe.micros()).then_some(slot)
    }

    /// Returns `true` if it has the candle of the bucket of `timeframe` that `ts_us` is in.
    pub(crate) fn holds(&self, timeframe: Timeframe, ts_us: i64) -> bool {
        let start_us = timeframe.bucket_start_us(ts_us);
        self.0.iter().rev().any(|slot| slot.candle.start_us == start_us)
    }

    /// Takes a candle in, in place of the one of the same bucket. Returns the current one from before if it is older: it is displaced.
    pub(crate) fn insert(&mut self, slot: Slot) -> Option<&mut Slot> {
        let start_us = slot.candle.start_us;
        let at = self.0.partition_point(|slot| slot.candle.start_us < start_us);
        if self.0.get(at).is_some_and(|slot| slot.candle.start_us == start_us) {
            self.0[at] = slot;
            return None;
        }
        // There are few, of many symbols.
        self.0.reserve_exact(1);
        self.0.insert(at, slot);
        let is_current = at + 1 == self.0.len();
        at.checked_sub(1)
            .filter(|_| is_current)
            .map(|before| &mut self.0[before])
    }

    /// The candles, oldest first.
    pub(crate) fn slots(&self) -> impl Iterator<Item = &Slot> {
        self.0.iter()
    }

    /// The candles, oldest first.
    pub(crate) fn slots_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.0.iter_mut()
    }

    /// Removes the candles that `keep` is false for.
    pub(crate) fn retain(&mut self, keep: impl FnMut(&Slot) -> bool) {
        self.0.retain(keep);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use storage_core::domain::decimal::Decimal;

    use super::*;

    fn slot(ts_us: i64) -> Slot {
        Slot::held(
            Candle::of_tick(Timeframe::M1, ts_us, 1.0, Decimal::ZERO, Default::default()),
            false,
        )
    }

    proptest! {
        #[test]
        fn is_a_map_by_start(times_us in prop::collection::vec(0i64..1_800_000_000, 1..30), asked_us in 0i64..1_800_000_000) {
            let (mut frame, mut starts_us) = (Frame::default(), std::collections::BTreeSet::new());
            for ts_us in times_us {
                let start_us = Timeframe::M1.bucket_start_us(ts_us);
                let newest_us = starts_us.last().copied();
                let displaced = frame.insert(slot(ts_us)).map(|slot| slot.candle.start_us);
                prop_assert_eq!(displaced, newest_us.filter(|newest_us| *newest_us < start_us));
                starts_us.insert(start_us);
            }
            prop_assert_eq!(frame.current_us(), starts_us.last().copied());
            prop_assert!(frame.slots().map(|slot| slot.candle.start_us).eq(starts_us.iter().copied()));
            let found = frame.of_mut(Timeframe::M1, asked_us).map(|slot| slot.candle.start_us);
            prop_assert_eq!(found, starts_us.get(&Timeframe::M1.bucket_start_us(asked_us)).copied());
        }
    }
}
