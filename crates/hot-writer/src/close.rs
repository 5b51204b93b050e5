//! Closing candles: by the symbol's own event time, or by the clock when the symbol has gone quiet. Pure.

use storage_core::domain::candle::Candle;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::timeframe::Timeframe;

use crate::fold::{Rules, SymbolState};
use crate::frame::{Base, Frame, Slot};

/// What has changed in a symbol and must be written.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Candles to write.
    pub(crate) candles: Vec<Change>,
    /// Candles that nothing can amend any more, by timeframe and start.
    pub(crate) expired: Vec<(Timeframe, i64)>,
    /// Candles of which the beginning is needed, by timeframe, start and the last entry that belongs to it.
    pub(crate) bases: Vec<(Timeframe, i64, Revision)>,
    /// Minutes that closed or changed although their beginning may be lost, by start: the history computes them, up to this entry.
    pub(crate) repairs: Vec<(i64, Revision)>,
    /// Whether no candle is open.
    pub(crate) all_closed: bool,
}

/// A candle to write.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) timeframe: Timeframe,
    pub(crate) candle: Candle,
    pub(crate) is_final: bool,
    /// The newest of its timeframe.
    pub(crate) is_current: bool,
    /// A closed minute to send to the history.
    pub(crate) must_send: bool,
    /// Sent before: this is an amendment.
    pub(crate) is_amendment: bool,
}

impl SymbolState {
    /// Closes what is over and takes what must be written. `idle_us` is the time by the clock of Redis up to which
    /// everything has been read; without it nothing is concluded from a symbol's silence.
    pub(crate) fn take_changes(&mut self, rules: &Rules, idle_us: Option<i64>) -> Changes {
        let quiet_us = idle_us.filter(|now_us| self.is_quiet(*now_us, rules));
        let closed_until_us = self.watermark_us.max(quiet_us.unwrap_or(i64::MIN));
        let mut changes = Changes {
            all_closed: true,
            ..Changes::default()
        };
        for (timeframe, frame) in Timeframe::ALL.into_iter().zip(&mut self.frames) {
            let current_us = frame.current_us().unwrap_or(i64::MIN);
            let end_us = |slot: &Slot| slot.candle.start_us + timeframe.micros();
            for slot in frame.slots_mut() {
                let was_final = slot.is_final;
                let close_us = end_us(slot) + rules.close_grace_us;
                close_if_over(slot, close_us, closed_until_us);
                changes.all_closed &= slot.is_final && !slot.is_incomplete();
                if let Some(doubt) = &mut slot.doubt {
                    if doubt.base == Base::Needed {
                        doubt.base = Base::Requested;
                        changes.bases.push((timeframe, slot.candle.start_us, doubt.until));
                    }
                    if std::mem::take(&mut slot.must_send) && timeframe == Timeframe::M1 {
                        changes.repairs.push((slot.candle.start_us, slot.candle.revision));
                    }
                }
                if slot.is_incomplete() {
                    continue;
                }
                if std::mem::take(&mut slot.is_dirty) {
                    changes.candles.push(Change {
                        timeframe,
                        candle: slot.candle.clone(),
                        is_final: slot.is_final,
                        is_current: slot.candle.start_us == current_us,
                        must_send: std::mem::take(&mut slot.must_send) && timeframe == Timeframe::M1,
                        is_amendment: was_final,
                    });
                }
            }
            let watermark_us = self.watermark_us;
            frame.retain(|slot| {
                let start_us = slot.candle.start_us;
                let keep = start_us == current_us || rules.amendable_until_us(end_us(slot)) > watermark_us;
                if !keep {
                    changes.expired.push((timeframe, start_us));
                }
                keep
            });
        }
        changes
    }

    /// Whether nothing is open, and nothing has changed since the last write.
    pub(crate) fn is_settled(&self) -> bool {
        let mut slots = self.frames.iter().flat_map(Frame::slots);
        !self.is_touched && slots.all(|slot| slot.is_final && !slot.is_dirty && !slot.is_incomplete())
    }

    /// Whether the symbol has sent nothing for longer than a late tick may take.
    fn is_quiet(&self, now_us: i64, rules: &Rules) -> bool {
        let last_entry_us = i64::try_from(self.last_entry_ms.saturating_mul(1_000)).unwrap_or(i64::MAX);
        now_us.saturating_sub(last_entry_us) >= rules.close_grace_us
    }
}

fn close_if_over(slot: &mut Slot, close_us: i64, closed_until_us: i64) {
    if !slot.is_final && close_us <= closed_until_us {
        slot.is_final = true;
        slot.is_dirty = true;
        slot.must_send = true;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;
    use storage_core::domain::decimal::Decimal;
    use storage_core::domain::entry::Entry;
    use storage_core::domain::lots::LotsError;
    use storage_core::domain::stream_id::StreamId;
    use storage_core::domain::tick::AcceptedTick;
    use storage_core::redis::codec::candles::CandleState;

    use super::*;
    use crate::decode::Countable;
    use crate::fold::Folded;
    use crate::restore::Tail;

    const MINUTE_US: i64 = 60_000_000;
    /// A day's start, so that every timeframe's bucket starts here.
    const DAY_US: i64 = 19_675 * 86_400 * 1_000_000;

    fn rules() -> Rules {
        Rules::new(
            Duration::from_secs(2),
            Duration::from_secs(600),
            Duration::from_secs(600),
        )
    }

    fn tick(id: StreamId, ts_us: i64, price: u32) -> AcceptedTick {
        let fields = [
            ("symbol", "A".to_owned()),
            ("ts_us", ts_us.to_string()),
            ("price", price.to_string()),
            ("qty", "1".to_owned()),
        ];
        AcceptedTick::from_entry(&Entry::new(id, fields), Duration::MAX).unwrap()
    }

    fn state() -> SymbolState {
        SymbolState::new("A".parse().unwrap())
    }

    fn fold(state: &mut SymbolState, seq: u64, ts_us: i64, price: u32) -> Folded {
        let tick = tick(StreamId { ms: 1_000, seq }, ts_us, price);
        let qty = tick.tick.qty;
        state.fold(&tick, qty, 8, &rules()).unwrap()
    }

    fn minutes(changes: &Changes) -> Vec<(i64, bool, bool)> {
        let minutes = changes
            .candles
            .iter()
            .filter(|change| change.timeframe == Timeframe::M1);
        minutes
            .map(|change| {
                (
                    (change.candle.start_us - DAY_US) / MINUTE_US,
                    change.is_final,
                    change.must_send,
                )
            })
            .collect()
    }

    #[test]
    fn a_minute_closes_when_the_symbols_own_time_passes_its_end_and_the_grace() {
        let mut state = state();
        fold(&mut state, 1, DAY_US, 10);
        assert_eq!(minutes(&state.take_changes(&rules(), None)), [(0, false, false)]);
        fold(&mut state, 2, DAY_US + MINUTE_US + 1_999_999, 11);
        assert_eq!(
            minutes(&state.take_changes(&rules(), None)),
            [(0, false, false), (1, false, false)]
        );
        fold(&mut state, 3, DAY_US + MINUTE_US + 2_000_000, 12);
        assert_eq!(
            minutes(&state.take_changes(&rules(), None)),
            [(0, true, true), (1, false, false)]
        );
        assert!(state.take_changes(&rules(), None).candles.is_empty());
    }

    #[test]
    fn a_quiet_symbols_minute_closes_by_the_clock() {
        let mut state = state();
        fold(&mut state, 1, DAY_US, 10);
        state.take_changes(&rules(), None);
        assert!(
            state
                .take_changes(&rules(), Some(DAY_US + MINUTE_US))
                .candles
                .is_empty()
        );
        let changes = state.take_changes(&rules(), Some(DAY_US + MINUTE_US + 2_000_000));
        assert_eq!(minutes(&changes), [(0, true, true)]);
        assert!(!changes.all_closed, "the larger timeframes are still open");
        assert!(
            state
                .take_changes(&rules(), Some(DAY_US + 2 * 86_400 * 1_000_000))
                .all_closed
        );
    }

    #[test]
    fn a_late_tick_amends_a_closed_minute_and_sends_it_again() {
        let mut state = state();
        fold(&mut state, 1, DAY_US, 10);
        fold(&mut state, 2, DAY_US + 2 * MINUTE_US, 12);
        state.take_changes(&rules(), None);
        assert_eq!(fold(&mut state, 3, DAY_US + 1, 11), Folded::Counted);
        let changes = state.take_changes(&rules(), None);
        assert_eq!(minutes(&changes), [(0, true, true)]);
        let amended = &changes.candles[0];
        assert!(amended.is_amendment && !amended.is_current);
        assert_eq!((amended.candle.trades, amended.candle.close), (2, 11.0));
    }

    #[test]
    fn a_tick_for_a_minute_that_had_none_opens_and_closes_it_late() {
        let mut state = state();
        fold(&mut state, 1, DAY_US + 5 * MINUTE_US, 10);
        fold(&mut state, 2, DAY_US + 2 * MINUTE_US, 11);
        assert_eq!(
            minutes(&state.take_changes(&rules(), None)),
            [(2, true, true), (5, false, false)]
        );
    }

    #[test]
    fn a_tick_beyond_the_amend_window_is_too_late_for_its_minute_only() {
        let mut state = state();
        fold(&mut state, 1, DAY_US, 10);
        fold(&mut state, 2, DAY_US + 12 * MINUTE_US, 12);
        let changes = state.take_changes(&rules(), None);
        assert_eq!(changes.expired, [(Timeframe::M1, DAY_US)]);
        assert_eq!(
            fold(&mut state, 3, DAY_US + 1, 30),
            Folded::TooLate { start_us: DAY_US }
        );
        let high = |timeframe: Timeframe| {
            state.frames[timeframe as usize]
                .slots()
                .map(|slot| slot.candle.high)
                .fold(0.0, f64::max)
        };
        assert_eq!((high(Timeframe::M1), high(Timeframe::D1)), (12.0, 30.0));
    }

    #[test]
    fn beyond_the_dedup_window_the_history_decides_even_for_an_open_minute() {
        let mut state = state();
        fold(&mut state, 1, DAY_US, 10);
        let late = tick(
            StreamId {
                ms: 1_000 + 600_001,
                seq: 0,
            },
            DAY_US + 1,
            10,
        );
        let qty = late.tick.qty;
        assert_eq!(
            state.fold(&late, qty, 8, &rules()),
            Ok(Folded::TooLate { start_us: DAY_US })
        );
    }

    #[test]
    fn a_minute_whose_volume_would_leave_bigint_is_left_as_it_was() {
        let mut state = state();
        let [first, next] = [1, 2].map(|seq| tick(StreamId { ms: 1_000, seq }, DAY_US, 1));
        let most = Decimal::from_lots(i64::MAX.into(), 8);
        assert_eq!(state.fold(&first, most, 8, &rules()), Ok(Folded::Counted));
        assert_eq!(state.fold(&next, most, 8, &rules()), Err(LotsError::TooLarge));
        assert_eq!(state.frames[0].slots().next().unwrap().candle.trades, 1);
    }

    proptest! {
        /// Wherever an owner dies, from how far back the next one reads again, whatever Redis loses meanwhile, and whenever the
        /// history answers: it ends up with the candles that a plain grouping of the ticks by minute gives, and no candle of any
        /// timeframe is shown that is not such a grouping.
        #[test]
        fn whatever_happens_to_its_owner_the_history_is_the_grouping_of_the_ticks(
            ticks in prop::collection::vec((0i64..20 * MINUTE_US, 1u32..100), 1..60),
            batch in 1usize..10,
            crash_at in 0usize..60,
            again in 0usize..30,
            expired in prop::collection::vec(prop::bool::weighted(0.3), 30),
            answered_after in 1usize..20,
        ) {
            let numbered = (1u64..).zip(&ticks);
            let ticks: Vec<_> = numbered.map(|(seq, (offset_us, price))| tick(StreamId { ms: 1_000, seq }, DAY_US + offset_us, *price)).collect();
            let crash_at = crash_at.min(ticks.len());
            let mut stores = Stores { ticks: ticks.clone(), answered_after, ..Stores::default() };
            stores.run(&mut state(), 0..crash_at, batch);
            stores.expire(&expired);
            let position = crash_at.saturating_sub(again);
            let mut next = stores.next_owner(position, i64::MAX / 4_000);
            stores.run(&mut next, position..ticks.len(), batch);
            stores.close_all(&mut next);

            for candle in stores.history.values() {
                let defined = stores.group(Timeframe::M1, candle.start_us, candle.revision);
                prop_assert_eq!(Some(candle), defined.as_ref());
            }
            let minutes: std::collections::BTreeSet<_> = ticks.iter().map(|t| Timeframe::M1.bucket_start_us(t.tick.ts_us)).collect();
            prop_assert_eq!(minutes.into_iter().collect::<Vec<_>>(), stores.history.keys().copied().collect::<Vec<_>>());
            let counted: i64 = stores.history.values().map(|candle| candle.trades).sum();
            prop_assert_eq!(counted, i64::try_from(ticks.len()).unwrap());
            prop_assert!(stores.wrongly_shown.is_empty(), "{:?}", stores.wrongly_shown);
        }
    }

    #[test]
    fn an_owner_that_finds_nothing_shows_a_candle_once_its_beginning_is_known() {
        let numbered = (1u64..).zip([0, 1, 2, 3]);
        let ticks: Vec<_> = numbered
            .map(|(seq, second)| tick(StreamId { ms: 1_000, seq }, DAY_US + second * 1_000_000, 10))
            .collect();
        let mut stores = Stores {
            ticks,
            answered_after: usize::MAX,
            ..Stores::default()
        };
        stores.run(&mut state(), 0..2, 1);
        stores.expire(&[true; 6]);
        let mut next = stores.next_owner(2, 0);
        stores.run(&mut next, 2..4, 1);
        assert!(stores.hot.is_empty());
        assert_eq!(stores.asked.len(), Timeframe::ALL.len());
        assert!(
            !next
                .take_changes(&rules(), Some(DAY_US + 2 * 86_400 * 1_000_000))
                .all_closed
        );
        stores.answer(&mut next);
        assert!(next.take_changes(&rules(), None).all_closed);
        assert_eq!(
            next.frames[Timeframe::D1 as usize]
                .slots()
                .next()
                .unwrap()
                .candle
                .trades,
            4
        );
    }

    #[test]
    fn an_owner_killed_while_a_minute_waits_for_late_ticks_loses_nothing() {
        let times = [0, 10, 59, 60].map(|second| second * 1_000_000);
        let numbered = (1u64..).zip(times);
        let ticks: Vec<_> = numbered
            .map(|(seq, offset_us)| tick(StreamId { ms: 1_000, seq }, DAY_US + offset_us, 10))
            .collect();
        let mut stores = Stores {
            ticks,
            ..Stores::default()
        };
        stores.run(&mut state(), 0..4, 4);
        assert!(stores.history.is_empty());
        stores.hot.remove(&(Timeframe::M1, DAY_US));
        let mut next = stores.next_owner(4, 0);
        stores.close_all(&mut next);
        let trades = stores.history.values().map(|candle| candle.trades);
        assert_eq!(trades.collect::<Vec<_>>(), [3, 1]);
    }

    #[test]
    fn a_displaced_candle_is_in_doubt_only_when_it_may_have_expired() {
        let asked = |kept_since_ms| {
            let mut state = state();
            fold(&mut state, 1, DAY_US + 5 * MINUTE_US, 10);
            state.restored(kept_since_ms);
            fold(&mut state, 2, DAY_US + 2 * MINUTE_US, 10);
            fold(&mut state, 3, DAY_US + 6 * MINUTE_US, 10);
            state.take_changes(&rules(), None).bases
        };
        // The current one was accepted in the first second; the other one ended two minutes of market time before it began.
        assert_eq!(asked(1_000 - 120_001), []);
        let until = Revision::try_from(StreamId { ms: 1_000, seq: 1 }).unwrap();
        let minute_us = DAY_US + 2 * MINUTE_US;
        assert_eq!(
            asked(1_000 - 120_000),
            [(Timeframe::M1, minute_us, until), (Timeframe::M5, DAY_US, until)][..1]
        );
    }

    #[test]
    fn replayed_trades_of_the_past_are_in_doubt_only_near_the_first() {
        let mut state = state();
        state.has_lost(DAY_US + 365 * 86_400 * 1_000_000);
        let mut asked = 0;
        for minute in 0..300 {
            fold(
                &mut state,
                u64::try_from(minute).unwrap() + 1,
                DAY_US + minute * MINUTE_US,
                10,
            );
            asked += state.take_changes(&rules(), None).bases.len();
        }
        assert_eq!(asked, 11 + 3 + 4);
    }

    #[test]
    fn entries_read_again_are_not_too_late_for_minutes_that_have_expired_since() {
        let times = [0, 1, 30, 31, 60, 2];
        let numbered = (1u64..).zip(times);
        let ticks: Vec<_> = numbered
            .map(|(seq, minute)| tick(StreamId { ms: 1_000, seq }, DAY_US + minute * MINUTE_US, 10))
            .collect();
        let mut stores = Stores {
            ticks,
            ..Stores::default()
        };
        stores.run(&mut state(), 0..5, 2);
        assert_eq!(stores.repairs, 0);
        let mut next = stores.next_owner(0, 0);
        stores.run(&mut next, 0..5, 2);
        assert_eq!(stores.repairs, 0);
        stores.run(&mut next, 5..6, 2);
        assert_eq!(stores.repairs, 1);
    }

    /// What Redis and the database hold.
    #[derive(Default)]
    struct Stores {
        ticks: Vec<AcceptedTick>,
        hot: BTreeMap<(Timeframe, i64), CandleState>,
        history: BTreeMap<i64, Candle>,
        repairs: usize,
        asked: Vec<(Timeframe, i64, Revision)>,
        /// After how many batches the history answers.
        answered_after: usize,
        wrongly_shown: Vec<(Timeframe, Candle)>,
    }

    impl Stores {
        fn is_newest(&self, timeframe: Timeframe, start_us: i64) -> bool {
            let mut keys = self.hot.keys();
            !keys.any(|(other, other_us)| *other == timeframe && *other_us > start_us)
        }

        /// Forgets candles. A displaced one is not kept for longer than the current one.
        fn expire(&mut self, expired: &[bool]) {
            let gone = |at: usize| expired.get(at).is_some_and(|gone| *gone);
            let numbered = self.hot.keys().copied().enumerate();
            let lost: Vec<_> = numbered.filter(|(at, _)| gone(*at)).map(|(_, key)| key).collect();
            let currents: Vec<_> = lost
                .iter()
                .filter(|(timeframe, start_us)| self.is_newest(*timeframe, *start_us))
                .map(|(timeframe, _)| *timeframe)
                .collect();
            self.hot
                .retain(|key, _| !lost.contains(key) && !currents.contains(&key.0));
        }

        /// What a new owner that begins after so many ticks makes of the hot candles.
        fn next_owner(&self, position: usize, kept_since_ms: i64) -> SymbolState {
            let mut next = state();
            for ((timeframe, start_us), written) in &self.hot {
                match self.is_newest(*timeframe, *start_us) {
                    true => next.restore_current(*timeframe, written.clone()),
                    false => next.restore(*timeframe, written.clone()),
                }
            }
            match next.has_candles() {
                true => next.restored(kept_since_ms),
                false => next.has_lost(DAY_US + 20 * MINUTE_US),
            }
            let before = &self.ticks[..position];
            if let Some(last) = before.last() {
                next.begins_after(last.revision);
            }
            let mut tail = Tail::default();
            for tick in before {
                let tick = Countable {
                    qty: tick.tick.qty,
                    decimals: 8,
                    rounded: false,
                    accepted: tick.clone(),
                };
                tail.add(tick, &next, &rules());
            }
            for tick in tail.0 {
                next.fold_again(&tick.accepted, tick.qty, 8, &rules()).unwrap();
            }
            next
        }

        fn run(&mut self, state: &mut SymbolState, range: std::ops::Range<usize>, batch: usize) {
            for (at, ticks) in self.ticks[range].to_vec().chunks(batch).enumerate() {
                for tick in ticks {
                    if let Folded::TooLate { start_us } = state.fold(tick, tick.tick.qty, 8, &rules()).unwrap() {
                        self.repair(start_us, tick.revision);
                    }
                }
                self.write(state.take_changes(&rules(), None));
                if (at + 1).is_multiple_of(self.answered_after) {
                    self.answer(state);
                }
            }
        }

        fn repair(&mut self, start_us: i64, revision: Revision) {
            self.repairs += 1;
            let candle = self.group(Timeframe::M1, start_us, revision).unwrap();
            self.upsert(candle);
        }

        /// Hands over what was asked for.
        fn answer(&mut self, state: &mut SymbolState) {
            for (timeframe, start_us, until) in std::mem::take(&mut self.asked) {
                let base = self.group(timeframe, start_us, until);
                state.join(timeframe, start_us, until, base);
            }
        }

        fn close_all(&mut self, state: &mut SymbolState) {
            self.write(state.take_changes(&rules(), Some(i64::MAX)));
            self.answer(state);
            self.write(state.take_changes(&rules(), Some(i64::MAX)));
        }

        fn write(&mut self, changes: Changes) {
            for (start_us, revision) in changes.repairs {
                self.repair(start_us, revision);
            }
            self.asked.extend(changes.bases);
            for change in changes.candles {
                let candle = &change.candle;
                if self.group(change.timeframe, candle.start_us, candle.revision).as_ref() != Some(candle) {
                    self.wrongly_shown.push((change.timeframe, candle.clone()));
                }
                if change.must_send {
                    self.upsert(change.candle.clone());
                }
                let at = (change.timeframe, change.candle.start_us);
                self.hot.insert(
                    at,
                    CandleState {
                        candle: change.candle,
                        is_final: change.is_final,
                    },
                );
            }
            for expired in changes.expired {
                self.hot.remove(&expired);
            }
        }

        fn upsert(&mut self, candle: Candle) {
            let stored = self.history.entry(candle.start_us).or_insert_with(|| candle.clone());
            if stored.revision < candle.revision {
                *stored = candle;
            }
        }

        /// The definition of a candle.
        fn group(&self, timeframe: Timeframe, start_us: i64, until: Revision) -> Option<Candle> {
            let bucket = self
                .ticks
                .iter()
                .filter(|t| t.revision <= until && timeframe.bucket_start_us(t.tick.ts_us) == start_us);
            let mut ticks: Vec<_> = bucket.collect();
            if ticks.is_empty() {
                return None;
            }
            let [since, revision] = [ticks[0].revision, ticks[ticks.len() - 1].revision];
            ticks.sort_by_key(|t| (t.tick.ts_us, t.revision));
            let prices = || ticks.iter().map(|t| t.tick.price);
            let [first, last] = [&ticks[0].tick, &ticks[ticks.len() - 1].tick];
            Some(Candle {
                start_us,
                open: first.price,
                high: prices().fold(f64::MIN, f64::max),
                low: prices().fold(f64::MAX, f64::min),
                close: last.price,
                volume: ticks
                    .iter()
                    .fold(Decimal::ZERO, |sum, t| sum.checked_add(t.tick.qty).unwrap()),
                trades: i64::try_from(ticks.len()).unwrap(),
                first_us: first.ts_us,
                last_us: last.ts_us,
                since,
                revision,
            })
        }
    }
}
