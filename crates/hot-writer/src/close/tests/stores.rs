//! A model of Redis and the history.

use std::collections::BTreeMap;
use std::ops::Range;

use storage_core::domain::candle::Candle;
use storage_core::domain::candle::CandleState;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::stream_id::Revision;
use storage_core::domain::timeframe::Timeframe;

use super::{DAY_US, MINUTE_US, rules, state};
use crate::decode::DecodedTick;
use crate::fold::{Folded, SymbolState};
use crate::restore::{AmendedMinutes, Tail};

/// The state of Redis and of the history after a stream of ticks.
#[derive(Default)]
pub(super) struct Stores {
    pub(super) ticks: Vec<DecodedTick>,
    pub(super) hot: BTreeMap<(Timeframe, i64), CandleState>,
    pub(super) history: BTreeMap<i64, Candle>,
    pub(super) repairs: usize,
    pub(super) requested: Vec<(Timeframe, i64, Revision)>,
    /// Number of batches after which the history answers.
    pub(super) answered_after: usize,
    /// Candles that differ from the definition of a candle.
    pub(super) wrongly_written: Vec<(Timeframe, Candle)>,
}

impl Stores {
    fn is_newest(&self, timeframe: Timeframe, start_us: i64) -> bool {
        let mut keys = self.hot.keys();
        !keys.any(|(other, other_us)| *other == timeframe && *other_us > start_us)
    }

    /// Expires candles. No displaced candle is kept for longer than the current one.
    pub(super) fn expire(&mut self, expired: &[bool]) {
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

    /// Returns the state of a new owner that resumes after the tick number `position`.
    pub(super) fn next_owner(&self, position: usize, kept_since_us: i64) -> SymbolState {
        let mut next = state();
        for ((timeframe, start_us), written) in &self.hot {
            match self.is_newest(*timeframe, *start_us) {
                true => next.restore_current(*timeframe, written.clone()),
                false => next.restore(*timeframe, written.clone()),
            }
        }
        match next.has_candles() {
            true => next.mark_expired(kept_since_us),
            false => next.mark_lost(DAY_US + 20 * MINUTE_US),
        }
        let before = &self.ticks[..position];
        if let Some(last) = before.last() {
            next.set_position(last.accepted.revision);
        }
        let (mut tail, mut amended) = (Tail::default(), AmendedMinutes::default());
        for tick in before {
            tail.add(tick.clone(), None, &rules());
            amended.add_tick(&tick.accepted, &rules());
        }
        amended.amend(&mut next);
        for tick in tail.lost(&next, &rules()) {
            next.refold(&tick, &rules()).unwrap();
        }
        next
    }

    pub(super) fn run(&mut self, state: &mut SymbolState, range: Range<usize>, batch: usize) {
        for (at, ticks) in self.ticks[range].to_vec().chunks(batch).enumerate() {
            for tick in ticks {
                if let Folded::TooLate { start_us } = state.fold(tick, &rules()).unwrap() {
                    self.repair(start_us, tick.accepted.revision);
                }
            }
            self.write(state, None);
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

    /// Answers the requests for bases.
    pub(super) fn answer(&mut self, state: &mut SymbolState) {
        for (timeframe, start_us, until) in std::mem::take(&mut self.requested) {
            let base = self.group(timeframe, start_us, until);
            state.join_base(timeframe, start_us, until, base);
        }
    }

    pub(super) fn close_all(&mut self, state: &mut SymbolState) {
        self.write(state, Some(i64::MAX));
        while !self.requested.is_empty() {
            self.answer(state);
            self.write(state, Some(i64::MAX));
        }
    }

    fn write(&mut self, state: &mut SymbolState, idle_us: Option<i64>) {
        let changes = state.take_changes(&rules(), idle_us);
        for (start_us, revision) in changes.repairs {
            self.repair(start_us, revision);
        }
        self.requested.extend(changes.bases);
        for change in changes.candles {
            let candle = &change.candle;
            let series = &state.series[change.timeframe as usize];
            let is_late = series
                .iter()
                .any(|tracked| tracked.candle.start_us == candle.start_us && tracked.awaits_base());
            if !is_late && self.group(change.timeframe, candle.start_us, candle.revision).as_ref() != Some(candle) {
                self.wrongly_written.push((change.timeframe, candle.clone()));
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

    /// Computes a candle by its definition.
    pub(super) fn group(&self, timeframe: Timeframe, start_us: i64, until: Revision) -> Option<Candle> {
        let accepted = self.ticks.iter().map(|tick| &tick.accepted);
        let bucket = accepted.filter(|t| t.revision <= until && timeframe.bucket_start_us(t.tick.ts_us) == start_us);
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
