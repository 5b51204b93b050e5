//! What a new owner finds in Redis: candles that others have written, and the trades of the dedup window.

use std::borrow::BorrowMut;
use std::collections::HashSet;
use std::time::Duration;

use redis::RedisResult;
use storage_core::domain::stream_id::StreamId;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;
use storage_core::redis::codec::candles::CandleState;
use storage_core::redis::codec::dead;
use storage_core::redis::connection::Connection;
use storage_core::redis::hot;
use storage_core::redis::keys::{self, Key};
use storage_core::redis::stream::{Pages, Stream};

use crate::decode::{Countable, Decoder};
use crate::dedup::{Dedup, TradeId};
use crate::fold::{Rules, SymbolState};

/// What Redis holds of `symbols`: their current candles and, of those that have any, the displaced ones that may still be amended.
///
/// # Errors
/// When Redis can't be asked.
pub(crate) async fn states(
    conn: &mut Connection,
    symbols: Vec<Symbol>,
    rules: &Rules,
) -> RedisResult<Vec<SymbolState>> {
    let mut states: Vec<SymbolState> = symbols.into_iter().map(SymbolState::new).collect();
    let current = |timeframes: &'static [Timeframe]| {
        move |state: &SymbolState| {
            let key = |timeframe: &Timeframe| (*timeframe, keys::candle_current(*timeframe, &state.symbol));
            timeframes.iter().map(key).collect()
        }
    };
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

/// The trades of the dedup window before `position`. Those that became dead letters were not counted.
///
/// # Errors
/// When Redis can't be asked.
pub(crate) async fn trades(
    conn: &mut Connection,
    decoder: &Decoder,
    position: StreamId,
    window: Duration,
) -> RedisResult<Dedup> {
    let mut dedup = Dedup::new(window);
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
            if let Ok(Countable { accepted, .. }) = decoder.decode(entry)
                && let Some(id) = accepted.dedup_id()
            {
                dedup.of(&accepted.tick.symbol).note(TradeId::of(&id), entry.id.ms);
            }
        }
    }
    Ok(dedup)
}
