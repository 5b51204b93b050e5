//! Examples and a property of folding and closing.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;
use storage_core::domain::decimal::Decimal;
use storage_core::domain::lots::LotsError;
use storage_core::domain::stream_id::StreamId;

use self::stores::Stores;
use super::*;
use crate::decode::DecodedTick;
use crate::fold::Folded;

mod stores;

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

/// Returns ticks at `times_us` after the start of the day, numbered from 1.
fn ticks(times_us: impl IntoIterator<Item = i64>) -> Vec<DecodedTick> {
    let numbered = (1..).zip(times_us);
    numbered
        .map(|(seq, offset_us)| tick(seq, DAY_US + offset_us, 10))
        .collect()
}

fn tick(seq: u64, ts_us: i64, price: u32) -> DecodedTick {
    DecodedTick::example(StreamId { ms: 1_000, seq }, ts_us, price)
}

fn state() -> SymbolState {
    SymbolState::new("A".parse().unwrap())
}

fn fold(state: &mut SymbolState, seq: u64, ts_us: i64, price: u32) -> Folded {
    state.fold(&tick(seq, ts_us, price), &rules()).unwrap()
}

/// Returns the number, finality and sending of each changed minute.
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
fn a_minute_closes_once_an_event_time_passes_its_end_and_the_grace() {
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
fn the_minute_of_an_idle_symbol_closes_in_time_after_an_id_of_the_future() {
    let now_us = DAY_US + MINUTE_US + 1_000_000;
    for ahead_us in [6_000_000, 365 * 86_400 * 1_000_000] {
        let mut state = state();
        let id = StreamId::at_ms(u64::try_from((now_us + ahead_us) / 1_000).unwrap());
        state.fold(&DecodedTick::example(id, DAY_US, 10), &rules()).unwrap();
        state.take_changes(&rules(), None);
        assert!(minutes(&state.take_changes(&rules(), Some(now_us))).is_empty());
        let closed = state.take_changes(&rules(), Some(now_us + 2_000_000));
        assert_eq!(minutes(&closed), [(0, true, true)]);
    }
}

#[test]
fn the_minute_of_an_idle_symbol_closes_by_the_clock() {
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
fn a_late_tick_opens_and_closes_a_minute_without_ticks() {
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
        state.series[timeframe as usize]
            .iter()
            .map(|tracked| tracked.candle.high)
            .fold(0.0, f64::max)
    };
    assert_eq!((high(Timeframe::M1), high(Timeframe::D1)), (12.0, 12.0));
    let [_, larger @ ..] = Timeframe::ALL;
    assert_eq!(
        state.take_changes(&rules(), None).bases,
        larger.map(|timeframe| (timeframe, DAY_US, revision(3))),
        "the history knows whether it is a repetition"
    );
}

#[test]
fn beyond_the_dedup_window_a_tick_is_too_late_even_for_an_open_minute() {
    let mut state = state();
    fold(&mut state, 1, DAY_US, 10);
    let late = DecodedTick::example(StreamId::at_ms(1_000 + 600_001), DAY_US + 1, 10);
    assert_eq!(state.fold(&late, &rules()), Ok(Folded::TooLate { start_us: DAY_US }));
}

#[test]
fn a_tick_whose_volume_exceeds_bigint_leaves_the_minute_unchanged() {
    let mut state = state();
    let [first, next] = [1, 2].map(|seq| DecodedTick {
        qty: Decimal::from_lots(i64::MAX.into(), 8),
        ..tick(seq, DAY_US, 1)
    });
    assert_eq!(state.fold(&first, &rules()), Ok(Folded::Counted));
    assert_eq!(state.fold(&next, &rules()), Err(LotsError::TooLarge));
    assert_eq!(state.series[0].iter().next().unwrap().candle.trades, 1);
}

proptest! {
    /// The history equals the grouping of the ticks by minute, and every candle that is written is such a grouping.
    /// This holds for any moment at which the owner is killed, any position from which the next one reads again, any
    /// candles that Redis loses meanwhile, and any delay of the history's answers.
    #[test]
    fn the_history_is_the_grouping_of_the_ticks_after_any_crash(
        ticks in prop::collection::vec((0i64..20 * MINUTE_US, 1u32..100), 1..60),
        batch in 1usize..10,
        crash_at in 0usize..60,
        again in 0usize..30,
        expired in prop::collection::vec(prop::bool::weighted(0.3), 30),
        answered_after in 1usize..20,
    ) {
        let numbered = (1..).zip(ticks);
        let ticks: Vec<_> = numbered.map(|(seq, (offset_us, price))| tick(seq, DAY_US + offset_us, price)).collect();
        let crash_at = crash_at.min(ticks.len());
        let mut stores = Stores { ticks: ticks.clone(), answered_after, ..Stores::default() };
        stores.run(&mut state(), 0..crash_at, batch);
        stores.expire(&expired);
        let position = crash_at.saturating_sub(again);
        let mut next = stores.next_owner(position, i64::MAX / 4);
        stores.run(&mut next, position..ticks.len(), batch);
        stores.close_all(&mut next);

        for candle in stores.history.values() {
            let defined = stores.group(Timeframe::M1, candle.start_us, candle.revision);
            prop_assert_eq!(Some(candle), defined.as_ref());
        }
        let minutes: BTreeSet<_> = ticks
            .iter()
            .map(|tick| Timeframe::M1.bucket_start_us(tick.accepted.tick.ts_us))
            .collect();
        prop_assert!(minutes.iter().eq(stores.history.keys()));
        let counted: i64 = stores.history.values().map(|candle| candle.trades).sum();
        prop_assert_eq!(counted, i64::try_from(ticks.len()).unwrap());
        prop_assert!(stores.wrongly_written.is_empty(), "{:?}", stores.wrongly_written);
        for ((timeframe, start_us), hot) in &stores.hot {
            let defined = stores.group(*timeframe, *start_us, revision(u64::MAX >> 42)).map(|candle| candle.trades);
            prop_assert_eq!(Some(hot.candle.trades), defined, "{} {}", timeframe, start_us - DAY_US);
        }
    }
}

#[test]
fn an_incomplete_candle_is_written_once_its_base_is_joined() {
    let mut stores = Stores {
        ticks: ticks((0..4).map(|second| second * 1_000_000)),
        answered_after: usize::MAX,
        ..Stores::default()
    };
    stores.run(&mut state(), 0..2, 1);
    stores.expire(&[true; 6]);
    let mut next = stores.next_owner(2, 0);
    stores.run(&mut next, 2..4, 1);
    assert!(stores.hot.is_empty());
    assert_eq!(stores.requested.len(), Timeframe::ALL.len());
    assert!(
        !next
            .take_changes(&rules(), Some(DAY_US + 2 * 86_400 * 1_000_000))
            .all_closed
    );
    stores.answer(&mut next);
    assert!(next.take_changes(&rules(), None).all_closed);
    assert_eq!(
        next.series[Timeframe::D1 as usize].iter().next().unwrap().candle.trades,
        4
    );
}

#[test]
fn an_owner_killed_during_the_close_grace_loses_nothing() {
    let mut stores = Stores {
        ticks: ticks([0, 10, 59, 60].map(|second| second * 1_000_000)),
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
fn a_displaced_candle_requires_a_base_only_if_it_may_have_expired() {
    let requested = |kept_since_us| {
        let mut state = state();
        fold(&mut state, 1, DAY_US + 5 * MINUTE_US, 10);
        state.mark_expired(kept_since_us);
        fold(&mut state, 2, DAY_US + 2 * MINUTE_US, 10);
        fold(&mut state, 3, DAY_US + 6 * MINUTE_US, 10);
        state.take_changes(&rules(), None).bases
    };
    // The current candle began in the first second of stream time; the other candle ended two minutes of market time
    // before it.
    assert_eq!(requested(1_000_000 - 120_001_000), []);
    let until = revision(1);
    let minute_us = DAY_US + 2 * MINUTE_US;
    assert_eq!(
        requested(1_000_000 - 120_000_000),
        [(Timeframe::M1, minute_us, until), (Timeframe::M5, DAY_US, until)][..1]
    );
}

#[test]
fn replayed_trades_of_the_past_require_bases_only_near_the_first() {
    let mut state = state();
    state.mark_lost(DAY_US + 365 * 86_400 * 1_000_000);
    let mut requested = 0;
    for minute in 0..300 {
        fold(
            &mut state,
            u64::try_from(minute).unwrap() + 1,
            DAY_US + minute * MINUTE_US,
            10,
        );
        requested += state.take_changes(&rules(), None).bases.len();
    }
    assert_eq!(requested, 11 + 3 + 4);
}

#[test]
fn entries_read_again_are_not_too_late_for_expired_minutes() {
    let mut stores = Stores {
        ticks: ticks([0, 1, 30, 31, 60, 2].map(|minute| minute * MINUTE_US)),
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

/// Returns the revision of the entry number `seq`.
fn revision(seq: u64) -> Revision {
    tick(seq, DAY_US, 1).accepted.revision
}

/// Returns the candle of a bucket's ticks up to the entry number `until`.
fn base(timeframe: Timeframe, ticks: &[DecodedTick], until: u64) -> Option<Candle> {
    let mut state = state();
    for tick in ticks {
        state.fold(tick, &rules()).unwrap();
    }
    let candle = state.series[timeframe as usize].iter().next()?.candle.clone();
    Some(Candle {
        revision: revision(until),
        ..candle
    })
}

fn candle(state: &SymbolState, timeframe: Timeframe) -> &Candle {
    let candles = &state.series[timeframe as usize];
    &candles.iter().next().unwrap().candle
}

#[test]
fn an_amended_candle_stays_as_it_was_until_the_history_answers_and_keeps_later_ticks() {
    let ticks = [1, 2, 3, 5].map(|seq| {
        tick(
            seq,
            DAY_US + i64::try_from(seq).unwrap(),
            10 + u32::try_from(seq).unwrap(),
        )
    });
    let mut state = state();
    ticks[..3]
        .iter()
        .for_each(|tick| assert!(state.fold(tick, &rules()).is_ok()));
    state.take_changes(&rules(), None);

    let amendment = revision(4);
    state.amend(DAY_US + 3, amendment);
    state.fold(&ticks[3], &rules()).unwrap();
    let changes = state.take_changes(&rules(), None);
    let requested = Timeframe::ALL.map(|timeframe| (timeframe, DAY_US, amendment));
    assert_eq!(changes.bases, requested);
    assert_eq!(changes.candles[0].candle.trades, 4);

    for timeframe in Timeframe::ALL {
        let base = base(timeframe, &ticks[..2], 4);
        assert!(state.join_base(timeframe, DAY_US, amendment, base));
        let expected = [&ticks[..2], &ticks[3..]].concat();
        assert_eq!(
            Some(candle(&state, timeframe)),
            self::base(timeframe, &expected, 5).as_ref()
        );
    }
    assert_eq!(state.take_changes(&rules(), None).candles.len(), Timeframe::ALL.len());
    // The history computes the closed minute itself.
    let changes = state.take_changes(&rules(), Some(DAY_US + 10 * MINUTE_US));
    assert_eq!(minutes(&changes), [(0, true, false)]);
    assert_eq!(changes.repairs, [(DAY_US, ticks[3].accepted.revision)]);
}

#[test]
fn amendments_that_come_faster_than_the_answers_do_not_keep_a_candle_from_them() {
    let mut state = state();
    let ticks = [1, 4].map(|seq| tick(seq, DAY_US + 1, 10));
    state.fold(&ticks[0], &rules()).unwrap();
    let requested = |state: &mut SymbolState| state.take_changes(&rules(), None).bases.first().copied();
    state.amend(DAY_US, revision(2));
    assert_eq!(requested(&mut state), Some((Timeframe::M1, DAY_US, revision(2))));
    state.amend(DAY_US, revision(3));
    state.fold(&ticks[1], &rules()).unwrap();
    state.amend(DAY_US, revision(5));
    assert_eq!(requested(&mut state), None, "one request at a time");
    assert!(state.join_base(Timeframe::M1, DAY_US, revision(2), base(Timeframe::M1, &ticks[..1], 2)));
    assert_eq!(candle(&state, Timeframe::M1).trades, 2);
    assert_eq!(requested(&mut state), Some((Timeframe::M1, DAY_US, revision(5))));
    assert!(state.join_base(Timeframe::M1, DAY_US, revision(5), base(Timeframe::M1, &ticks[1..], 5)));
    assert_eq!(candle(&state, Timeframe::M1).trades, 1);
    assert_eq!(requested(&mut state), None);
}

#[test]
fn a_candle_without_trades_begins_again_with_the_next_tick() {
    let mut state = state();
    fold(&mut state, 1, DAY_US + 5, 10);
    let amendment = revision(2);
    state.amend(DAY_US + 5, amendment);
    state.take_changes(&rules(), None);
    assert!(state.join_base(Timeframe::M1, DAY_US, amendment, None));
    let empty = candle(&state, Timeframe::M1);
    assert_eq!(
        (empty.trades, empty.volume, empty.revision),
        (0, Decimal::ZERO, amendment)
    );
    let next = tick(3, DAY_US + 30, 7);
    state.fold(&next, &rules()).unwrap();
    let expected = base(Timeframe::M1, &[next], 3).unwrap();
    assert_eq!(
        *candle(&state, Timeframe::M1),
        Candle {
            since: candle(&state, Timeframe::M1).since,
            ..expected
        }
    );
}

#[test]
fn an_amendment_of_a_bucket_that_is_not_here_removes_what_an_earlier_owner_has_left() {
    let mut state = state();
    fold(&mut state, 1, DAY_US + 180 * MINUTE_US, 10);
    state.take_changes(&rules(), None);
    let busted_us = DAY_US + MINUTE_US;
    state.amend(busted_us, revision(2));
    let changes = state.take_changes(&rules(), None);
    let smaller = [Timeframe::M1, Timeframe::M5, Timeframe::M15, Timeframe::H1];
    assert_eq!(
        changes.expired,
        smaller.map(|timeframe| (timeframe, timeframe.bucket_start_us(busted_us)))
    );
    assert_eq!(changes.bases.len(), 2, "the candles of 4 hours and of the day");
    assert_eq!(state.take_changes(&rules(), None).expired, Vec::new());
    // A late tick may create the candle of a minute that may still be amended.
    state.amend(DAY_US + 179 * MINUTE_US, revision(3));
    assert_eq!(state.take_changes(&rules(), None).expired, Vec::new());
}
