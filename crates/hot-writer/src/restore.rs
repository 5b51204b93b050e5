//! What a new owner finds in Redis: candles that others have written, and the trades of the dedup window.

use std::borrow::BorrowMut;
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

use foldhash::HashMap;
use redis::RedisResult;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles::CandleState;
use storage_core::redis::codec::dead;
use storage_core::redis::connection::Connection;
use storage_core::redis::hot;
use storage_core::redis::keys::{self, Key};
use storage_core::redis::stream::{Pages, Stream};
use storage_core::redis::trim::now_ms;

use crate::config::Config;
use crate::decode::{Countable, Decoder};
use crate::dedup::{Dedup, TradeId};
use crate::fold::{Rules, SymbolState};
use crate::write::RECENT_MARGIN;

/// What Redis holds of `symbols`, which had no open candles when the partition was taken up: their current candles and, of those that
/// have any, the displaced ones that may still be amended.
///
/// # Errors
/// When Redis can't be asked.
pub(crate) async fn states(
    conn: &mut Connection,
    symbols: Vec<Symbol>,
    rules: &Rules,
) -> RedisResult<Vec<SymbolState>> {
    let mut states: Vec<SymbolState> = symbols.into_iter().map(SymbolState::new).collect();
    // Whoever has any candle has the largest: every tick renews it, and none outlives it. So a symbol's first tick ever costs one read.
    let [smaller @ .., largest] = &Timeframe::ALL;
    restore(
        conn,
        &mut states,
        current(std::slice::from_ref(largest)),
        SymbolState::restore_current,
    )
    .await?;
    let known = states.iter_mut().filter(|state| state.has_candles());
    let mut known: Vec<&mut SymbolState> = known.collect();
    restore(conn, &mut known, current(smaller), SymbolState::restore_current).await?;
    let recent = |state: &SymbolState| recent_keys(state, rules);
    restore(conn, &mut known, recent, SymbolState::restore).await?;
    Ok(states)
}

/// What Redis holds of `symbols`, of which the index says that they have open candles. It may have lost any of them.
///
/// # Errors
/// When Redis can't be asked.
pub(crate) async fn open_states(
    conn: &mut Connection,
    symbols: Vec<Symbol>,
    rules: &Rules,
) -> RedisResult<Vec<SymbolState>> {
    let mut states: Vec<SymbolState> = symbols.into_iter().map(SymbolState::new).collect();
    restore(
        conn,
        &mut states,
        current(&Timeframe::ALL),
        SymbolState::restore_current,
    )
    .await?;
    let recent = |state: &SymbolState| recent_keys(state, rules);
    restore(conn, &mut states, recent, SymbolState::restore).await?;
    Ok(states)
}

/// The keys of a symbol's current candles.
fn current(timeframes: &'static [Timeframe]) -> impl Fn(&SymbolState) -> Vec<(Timeframe, Key)> {
    move |state| {
        let key = |timeframe: &Timeframe| (*timeframe, keys::candle_current(*timeframe, &state.symbol));
        timeframes.iter().map(key).collect()
    }
}

/// Reads the candles at each state's `keys` into it.
async fn restore<K, S: BorrowMut<SymbolState>>(
    conn: &mut Connection,
    states: &mut [S],
    keys: K,
    take: impl Fn(&mut SymbolState, Timeframe, CandleState),
) -> RedisResult<()>
where
    K: Fn(&SymbolState) -> Vec<(Timeframe, Key)>,
{
    let wanted: Vec<_> = states
        .iter()
        .enumerate()
        .flat_map(|(at, state)| {
            keys(state.borrow())
                .into_iter()
                .map(move |(timeframe, key)| (at, timeframe, key))
        })
        .collect();
    let names: Vec<_> = wanted.iter().map(|(_, _, key)| key.clone()).collect();
    let candles = hot::candles(conn, &names).await?;
    for ((at, timeframe, _), candle) in wanted.iter().zip(candles) {
        if let Some(candle) = candle {
            take(states[*at].borrow_mut(), *timeframe, candle);
        }
    }
    Ok(())
}

/// The keys at which a symbol's displaced candles may be, if it has a current one.
fn recent_keys(state: &SymbolState, rules: &Rules) -> Vec<(Timeframe, Key)> {
    let mut found = Vec::new();
    for timeframe in Timeframe::ALL {
        let Some(current_us) = state.frames[timeframe as usize].current_us() else {
            continue;
        };
        let mut start_us = current_us - timeframe.micros();
        while rules.amendable_until_us(start_us + timeframe.micros()) > state.watermark_us {
            found.push((timeframe, keys::candle_recent(timeframe, &state.symbol, start_us)));
            start_us -= timeframe.micros();
        }
    }
    found
}

/// What Redis may have lost of a partition's candles.
pub(crate) struct Losses {
    /// See [`hot::complete_since`].
    complete_since_ms: u64,
    /// The group's position when the partition was taken up; none where nothing was folded into what Redis holds.
    position: Option<Revision>,
    /// The clock of Redis at that time, and how long ago it is.
    now_ms: u64,
    taken_up: Instant,
    max_future: Duration,
    /// For how long a displaced candle lives.
    recent_ttl: Duration,
}

impl Losses {
    pub(crate) async fn of(
        conn: &mut Connection,
        partition: u16,
        position: StreamId,
        config: &Config,
    ) -> RedisResult<Self> {
        let position = Some(position).filter(|position| *position > StreamId::START);
        Ok(Self {
            complete_since_ms: hot::complete_since(conn, partition).await?,
            position: position.and_then(|position| position.try_into().ok()),
            now_ms: now_ms(conn).await?,
            taken_up: Instant::now(),
            max_future: config.stream.max_future,
            recent_ttl: config.hot.close_grace + config.hot.amend_window + RECENT_MARGIN,
        })
    }

    /// Notes what a symbol may have lost that the index names: whatever Redis does not hold.
    pub(crate) fn of_open(&self, state: &mut SymbolState) {
        let position_ms = self.position.map_or(0, |position| position.stream_id().ms);
        self.note(state, self.complete_since_ms.max(position_ms));
        if let Some(position) = self.position {
            state.begins_after(position);
        }
    }

    /// Notes what a symbol may have lost that the index did not name: nothing but what has expired, or was lost with the index.
    pub(crate) fn of_unknown(&self, state: &mut SymbolState) {
        self.note(state, self.complete_since_ms);
    }

    /// Notes what a symbol may have lost of the ticks that Redis had accepted by `accepted_ms`.
    fn note(&self, state: &mut SymbolState, accepted_ms: u64) {
        let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4);
        let max_future_ms = millis(self.max_future);
        let as_i64 = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX / 4);
        if state.has_candles() {
            let now_ms = as_i64(self.now_ms).saturating_add(millis(self.taken_up.elapsed()));
            let expired_ms = now_ms - millis(self.recent_ttl) + max_future_ms;
            state.restored(expired_ms.max(as_i64(self.complete_since_ms)));
        } else {
            // The greatest event time of those ticks.
            state.has_lost(as_i64(accepted_ms).saturating_add(max_future_ms).saturating_mul(1_000));
        }
    }
}

/// What the stream tells about the time before a position.
pub(crate) struct Before {
    /// The trades of the dedup window. Those that became dead letters were not counted.
    pub(crate) trades: Dedup,
    /// The last ticks of minutes that were open and that Redis has lost, in order: folded again, they open those candles, in doubt.
    pub(crate) lost: Vec<Countable>,
}

/// Reads the dedup window before `position`. `symbols` are those that have open candles, with what Redis holds of them.
///
/// # Errors
/// When Redis can't be asked.
pub(crate) async fn before(
    conn: &mut Connection,
    decoder: &Decoder,
    position: StreamId,
    window: Duration,
    symbols: &HashMap<Symbol, SymbolState>,
    rules: &Rules,
) -> RedisResult<Before> {
    let mut trades = Dedup::new(window);
    let mut tails: HashMap<Symbol, Tail> = HashMap::default();
    let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
    let from = StreamId::at_ms(position.ms.saturating_sub(window_ms));
    let stream = Stream::Ticks(decoder.admission.partition);
    let key = stream.key().to_string();
    let mut dead = HashSet::new();
    let mut letters = Pages::new(Stream::Dead, from, StreamId::END);
    while let Some(entries) = letters.next(conn).await? {
        let letters = entries.iter().map(dead::decode_entry);
        dead.extend(letters.filter(|letter| letter.stream == key).map(|letter| letter.id));
    }
    let mut ticks = Pages::new(stream, from, position);
    while let Some(entries) = ticks.next(conn).await? {
        for entry in entries.iter().filter(|entry| !dead.contains(&entry.id)) {
            let Ok(tick) = decoder.decode(entry) else { continue };
            let symbol = &tick.accepted.tick.symbol;
            if let Some(id) = tick.accepted.dedup_id() {
                let (trades, id) = (trades.of(symbol), TradeId::of(&id));
                if trades.know(id, entry.id.ms) {
                    continue;
                }
                trades.note(id, entry.id.ms);
            }
            if let Some(state) = symbols.get(symbol) {
                tails.entry(symbol.clone()).or_default().add(tick, state, rules);
            }
        }
    }
    let mut lost: Vec<Countable> = tails.into_values().flat_map(|tail| tail.0).collect();
    lost.sort_unstable_by_key(|tick| tick.accepted.revision);
    Ok(Before { trades, lost })
}

/// The last ticks of a symbol, from one on after which every open minute that Redis has lost has a tick.
#[derive(Default)]
pub(crate) struct Tail(pub(crate) VecDeque<Countable>);

impl Tail {
    pub(crate) fn add(&mut self, tick: Countable, state: &SymbolState, rules: &Rules) {
        let ts_us = |tick: &Countable| tick.accepted.tick.ts_us;
        let minute_us = |tick: &Countable| Timeframe::M1.bucket_start_us(ts_us(tick));
        let is_held = |tick: &Countable| state.frames[Timeframe::M1 as usize].holds(Timeframe::M1, ts_us(tick));
        if self.0.is_empty() && is_held(&tick) {
            return;
        }
        self.0.push_back(tick);
        let newest_us = self.0.iter().map(ts_us).max().unwrap_or(i64::MIN);
        let watermark_us = state.watermark_us.max(newest_us);
        while let Some(first) = self.0.front() {
            let is_closed = minute_us(first) + Timeframe::M1.micros() + rules.close_grace_us <= watermark_us;
            let comes_again = || self.0.iter().skip(1).any(|tick| minute_us(tick) == minute_us(first));
            if !is_closed && !is_held(first) && !comes_again() {
                break;
            }
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use storage_core::domain::entry::Entry;
    use storage_core::domain::tick::AcceptedTick;

    use super::*;

    const MINUTE_US: i64 = 60_000_000;

    fn tick(seq: u64, ts_us: i64) -> Countable {
        let fields = [
            ("symbol", "A".to_owned()),
            ("ts_us", ts_us.to_string()),
            ("price", "1".to_owned()),
            ("qty", "1".to_owned()),
        ];
        let entry = Entry::new(StreamId { ms: 1_000, seq }, fields);
        let accepted = AcceptedTick::from_entry(&entry, Duration::MAX).unwrap();
        Countable {
            qty: accepted.tick.qty,
            decimals: 8,
            rounded: false,
            accepted,
        }
    }

    /// The sequence numbers that are folded again of ticks at `times_us`, where Redis holds the candles of the ticks at `held_us`.
    fn lost(held_us: &[i64], times_us: &[i64]) -> Vec<u64> {
        let window = Duration::from_secs(600);
        let rules = Rules::new(Duration::from_secs(2), window, window);
        let mut state = SymbolState::new("A".parse().unwrap());
        for ts_us in held_us {
            let held = tick(1_000, *ts_us);
            state.fold(&held.accepted, held.qty, 8, &rules).unwrap();
        }
        let mut tail = Tail::default();
        for (seq, ts_us) in (1..).zip(times_us) {
            tail.add(tick(seq, *ts_us), &state, &rules);
        }
        let ids = tail.0.iter().map(|tick| tick.accepted.revision.stream_id());
        ids.map(|id| id.seq).collect()
    }

    #[test]
    fn one_tick_opens_a_minute_that_was_lost_and_closed_ones_are_left_alone() {
        let times_us = [0, 30_000_000, MINUTE_US, 2 * MINUTE_US, 2 * MINUTE_US + 5_000_000];
        assert_eq!(lost(&[], &times_us), [5]);
        assert_eq!(lost(&[2 * MINUTE_US], &times_us), [] as [u64; 0]);
    }

    #[test]
    fn a_minute_in_its_grace_is_lost_if_only_the_next_one_is_held() {
        let times_us = [50_000_000, 59_000_000, MINUTE_US + 500_000, MINUTE_US + 1_000_000];
        assert_eq!(lost(&[MINUTE_US + 1_000_000], &times_us), [2, 3, 4]);
        assert_eq!(lost(&[MINUTE_US + 1_000_000, 59_000_000], &times_us), [] as [u64; 0]);
    }
}
