//! Restores a partition's state from Redis: the candles that earlier owners have written, and the trades of the dedup
//! window.

use std::borrow::BorrowMut;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashSet};
use redis::RedisResult;
use storage_core::domain::candle::CandleState;
use storage_core::domain::stream_id::{Revision, StreamId};
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::AcceptedTick;
use storage_core::domain::time::{duration_ms, duration_us, ms_to_us};
use storage_core::domain::timeframe::Timeframe;
use storage_core::domain::trade_identity::TradeTime;
use storage_core::redis::clock::now_ms;
use storage_core::redis::codec::dead;
use storage_core::redis::connection::Connection;
use storage_core::redis::hot;
use storage_core::redis::keys::{self, Key};
use storage_core::redis::stream::{Pages, Stream};

use crate::config::Config;
use crate::decode::{Decoded, DecodedTick, Decoder};
use crate::dedup::{Dedup, TradeId};
use crate::fold::{Rules, SymbolState};
use crate::write::RECENT_MARGIN;

/// Restores `symbols` that had no open candles when the partition was acquired: their current candles and, if there are
/// any, the displaced ones that may still be amended.
pub(crate) async fn closed_states(
    conn: &mut Connection,
    symbols: Vec<Symbol>,
    rules: &Rules,
) -> RedisResult<Vec<SymbolState>> {
    let mut states: Vec<SymbolState> = symbols.into_iter().map(SymbolState::new).collect();
    // A symbol with any candle has one of the largest timeframe: every tick renews it, and it expires last. So one read
    // is enough for a symbol without candles.
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

/// Restores `symbols` that have open candles according to the index. Redis may have lost any of these candles.
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

/// Returns the keys of a symbol's current candles.
fn current(timeframes: &'static [Timeframe]) -> impl Fn(&SymbolState) -> Vec<(Timeframe, Key)> {
    move |state| {
        let key = |timeframe: &Timeframe| (*timeframe, keys::candle_current(*timeframe, &state.symbol));
        timeframes.iter().map(key).collect()
    }
}

/// Reads the candles at the `keys` of each state, and passes them to `take`.
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

/// Returns the keys that may hold displaced candles of a symbol that can still be amended.
fn recent_keys(state: &SymbolState, rules: &Rules) -> Vec<(Timeframe, Key)> {
    let mut found = Vec::new();
    for timeframe in Timeframe::ALL {
        let Some(current_us) = state.series[timeframe as usize].current_start_us() else {
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

/// Determines which candles of a partition Redis may have lost.
pub(crate) struct LostState {
    /// See [`hot::complete_since`].
    complete_since_ms: u64,
    /// Position of the group when the partition was acquired; none if nothing was folded into the candles in Redis.
    position: Option<Revision>,
    /// The clock of Redis when the partition was acquired.
    acquired_ms: u64,
    acquired: Instant,
    max_future: Duration,
    /// TTL of a displaced candle.
    recent_ttl: Duration,
}

impl LostState {
    pub(crate) async fn load(
        conn: &mut Connection,
        partition: u16,
        position: StreamId,
        config: &Config,
    ) -> RedisResult<Self> {
        let position = Some(position).filter(|position| *position > StreamId::START);
        Ok(Self {
            complete_since_ms: hot::complete_since(conn, partition).await?,
            position: position.and_then(|position| position.try_into().ok()),
            acquired_ms: now_ms(conn).await?,
            acquired: Instant::now(),
            max_future: config.stream.max_future,
            recent_ttl: config.hot.close_grace + config.hot.amend_window + RECENT_MARGIN,
        })
    }

    /// Marks the lost candles of a symbol with open candles according to the index: all that Redis does not hold.
    pub(crate) fn mark_open(&self, state: &mut SymbolState) {
        let position_ms = self.position.map_or(0, |position| position.stream_id().ms);
        self.mark(state, self.complete_since_ms.max(position_ms));
        if let Some(position) = self.position {
            state.set_position(position);
        }
    }

    /// Marks the lost candles of a symbol that the index does not contain: those that have expired or were lost with
    /// the index.
    pub(crate) fn mark_closed(&self, state: &mut SymbolState) {
        self.mark(state, self.complete_since_ms);
    }

    /// Marks the candles that may lack ticks which Redis had accepted by `accepted_ms`.
    fn mark(&self, state: &mut SymbolState, accepted_ms: u64) {
        let max_future_us = duration_us(self.max_future);
        if state.has_candles() {
            let now_us = ms_to_us(self.acquired_ms) + duration_us(self.acquired.elapsed());
            let expired_us = now_us - duration_us(self.recent_ttl) + max_future_us;
            state.mark_expired(expired_us.max(ms_to_us(self.complete_since_ms)));
        } else {
            // The greatest possible event time of those ticks.
            state.mark_lost(ms_to_us(accepted_ms) + max_future_us);
        }
    }
}

/// State restored from the entries before a position.
pub(crate) struct DedupWindow {
    /// Trades of the window without those that became dead letters, because these were not counted.
    pub(crate) trades: Dedup,
    /// The last ticks of the symbols with open candles.
    pub(crate) tails: HashMap<Symbol, Tail>,
    /// Changes by the history, by symbol.
    pub(crate) amended: HashMap<Symbol, AmendedMinutes>,
}

/// Minutes of a symbol with an amendment, or with a tick that came too late, and the last such entry of each.
#[derive(Default)]
pub(crate) struct AmendedMinutes {
    revisions: HashMap<i64, Revision>,
    /// Greatest event time of the ticks.
    newest_us: Option<i64>,
}

impl AmendedMinutes {
    /// Adds an entry that amends the minute of `ts_us`.
    fn add(&mut self, ts_us: i64, revision: Revision) {
        self.revisions.insert(Timeframe::M1.bucket_start_us(ts_us), revision);
    }

    /// Adds the next tick.
    pub(crate) fn add_tick(&mut self, tick: &AcceptedTick, rules: &Rules) {
        let ts_us = tick.tick.ts_us;
        let newest_us = self.newest_us.unwrap_or(ts_us);
        if rules.is_over(Timeframe::M1, Timeframe::M1.bucket_start_us(ts_us), newest_us) {
            self.add(ts_us, tick.revision);
        }
        self.newest_us = Some(ts_us.max(newest_us));
    }

    /// Amends `state`, which an earlier owner has written. It may have ended before the history answered its request.
    pub(crate) fn amend(&self, state: &mut SymbolState) {
        for (start_us, revision) in &self.revisions {
            state.amend(*start_us, *revision);
        }
    }
}

/// Reads the dedup window before `position`. `open` are the symbols with open candles.
pub(crate) async fn dedup_window(
    conn: &mut Connection,
    decoder: &Decoder,
    position: StreamId,
    window: Duration,
    open: &HashSet<Symbol>,
    rules: &Rules,
) -> RedisResult<DedupWindow> {
    let mut trades = Dedup::new(window);
    let mut tails: HashMap<Symbol, Tail> = HashMap::default();
    let mut amended: HashMap<Symbol, AmendedMinutes> = HashMap::default();
    let window_ms = duration_ms(window);
    let from = StreamId::at_ms(position.ms.saturating_sub(window_ms));
    let stream = Stream::Ticks(decoder.rules.partition);
    let key = stream.key().to_string();
    let mut dead = HashSet::default();
    let mut letters = Pages::new(Stream::Dead, from, StreamId::END);
    while let Some(entries) = letters.next(conn).await? {
        let letters = entries.iter().map(dead::decode_entry);
        dead.extend(letters.filter(|letter| letter.stream == key).map(|letter| letter.id));
    }
    let mut ticks = Pages::new(stream, from, position);
    while let Some(entries) = ticks.next(conn).await? {
        for entry in entries.iter().filter(|entry| !dead.contains(&entry.id)) {
            let tick = match decoder.decode(entry) {
                Ok(Decoded::Tick(tick)) => tick,
                Ok(Decoded::Amendment(amendment)) => {
                    let amended = amended.entry(amendment.symbol).or_default();
                    amended.add(amendment.ts_us, amendment.revision);
                    continue;
                }
                Err(_) => continue,
            };
            let symbol = &tick.accepted.tick.symbol;
            if let Some(id) = tick.accepted.dedup_id() {
                let (trades, id) = (trades.of(symbol), TradeId::parse(&id));
                let time = TradeTime::of_us(tick.accepted.tick.ts_us);
                if trades.contains(id, time, entry.id.ms) {
                    continue;
                }
                trades.insert(id, time, entry.id.ms);
            }
            let amended = amended.entry(symbol.clone()).or_default();
            amended.add_tick(&tick.accepted, rules);
            if open.contains(symbol) {
                let tail = tails.entry(symbol.clone()).or_default();
                tail.add(tick, None, rules);
            }
        }
    }
    Ok(DedupWindow { trades, tails, amended })
}

/// The shortest run of a symbol's last ticks that has a tick of every open minute.
#[derive(Default)]
pub(crate) struct Tail(VecDeque<DecodedTick>);

impl Tail {
    /// Returns the shortest run of the last ticks that has a tick of every open minute that Redis has lost, which
    /// `state` does not hold. Folding them again creates those candles, which then require a base.
    pub(crate) fn lost(self, state: &SymbolState, rules: &Rules) -> VecDeque<DecodedTick> {
        let mut lost = Self::default();
        for tick in self.0 {
            lost.add(tick, Some(state), rules);
        }
        lost.0
    }

    /// Adds the next tick. Minutes that `state` holds do not count.
    pub(crate) fn add(&mut self, tick: DecodedTick, state: Option<&SymbolState>, rules: &Rules) {
        let ts_us = |tick: &DecodedTick| tick.accepted.tick.ts_us;
        let minute_us = |tick: &DecodedTick| Timeframe::M1.bucket_start_us(ts_us(tick));
        let held = state.map(|state| &state.series[Timeframe::M1 as usize]);
        let is_held = |tick: &DecodedTick| held.is_some_and(|held| held.contains(Timeframe::M1, ts_us(tick)));
        if self.0.is_empty() && is_held(&tick) {
            return;
        }
        self.0.push_back(tick);
        let newest_us = self.0.iter().map(ts_us).max().unwrap_or(i64::MIN);
        let watermark_us = state.map_or(i64::MIN, |state| state.watermark_us).max(newest_us);
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
    use super::*;

    const MINUTE_US: i64 = 60_000_000;

    fn tick(seq: u64, ts_us: i64) -> DecodedTick {
        DecodedTick::example(StreamId { ms: 1_000, seq }, ts_us, 1)
    }

    /// Returns the sequence numbers of the ticks at `times_us` that are folded again if Redis holds the candles of the
    /// ticks at `held_us`.
    fn lost(held_us: &[i64], times_us: &[i64]) -> Vec<u64> {
        let window = Duration::from_secs(600);
        let rules = Rules::new(Duration::from_secs(2), window, window);
        let mut state = SymbolState::new("A".parse().unwrap());
        for ts_us in held_us {
            state.fold(&tick(1_000, *ts_us), &rules).unwrap();
        }
        let mut tail = Tail::default();
        for (seq, ts_us) in (1..).zip(times_us) {
            tail.add(tick(seq, *ts_us), None, &rules);
        }
        let lost = tail.lost(&state, &rules);
        let ids = lost.iter().map(|tick| tick.accepted.revision.stream_id());
        ids.map(|id| id.seq).collect()
    }

    #[test]
    fn only_the_last_tick_of_a_lost_open_minute_is_folded_again() {
        let times_us = [0, 30_000_000, MINUTE_US, 2 * MINUTE_US, 2 * MINUTE_US + 5_000_000];
        assert_eq!(lost(&[], &times_us), [5]);
        assert_eq!(lost(&[2 * MINUTE_US], &times_us), [] as [u64; 0]);
    }

    #[test]
    fn a_minute_in_its_close_grace_is_lost_if_only_the_next_one_is_held() {
        let times_us = [50_000_000, 59_000_000, MINUTE_US + 500_000, MINUTE_US + 1_000_000];
        assert_eq!(lost(&[MINUTE_US + 1_000_000], &times_us), [2, 3, 4]);
        assert_eq!(lost(&[MINUTE_US + 1_000_000, 59_000_000], &times_us), [] as [u64; 0]);
    }
}
