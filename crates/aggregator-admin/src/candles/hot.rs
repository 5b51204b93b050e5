//! Reads candles of a symbol from Redis.

use storage_core::domain::candle::CandleState;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::timeframe::Timeframe;

use storage_core::redis::connection::Connection;
use storage_core::redis::hot;
use storage_core::redis::keys::{self, Key};

/// Number of buckets before the newest that may still be amended; see `hot.amend_window`.
const AMENDABLE_BUCKETS: i64 = 60;

/// Reads the candle that starts at `start_us`, with its key: the current one, or a closed one that may still be
/// amended.
pub(crate) async fn candle(
    redis: &mut Connection,
    timeframe: Timeframe,
    symbol: &Symbol,
    start_us: i64,
) -> redis::RedisResult<Option<(Key, CandleState)>> {
    let keys = [
        keys::candle_current(timeframe, symbol),
        keys::candle_recent(timeframe, symbol, start_us),
    ];
    let candles = hot::candles(redis, &keys).await?;
    let found = keys.into_iter().zip(candles);
    Ok(found
        .filter_map(|(key, state)| Some((key, state?)))
        .find(|(_, state)| state.candle.start_us == start_us))
}

/// Reads the current candle, open or closed, and the earlier ones that a late tick may still amend.
pub(crate) async fn series(
    redis: &mut Connection,
    timeframe: Timeframe,
    symbol: &Symbol,
) -> redis::RedisResult<Vec<CandleState>> {
    let current = hot::candles(redis, &[keys::candle_current(timeframe, symbol)]).await?;
    let Some(current) = current.into_iter().flatten().next() else {
        return Ok(Vec::new());
    };
    let before = |back| keys::candle_recent(timeframe, symbol, current.candle.start_us - back * timeframe.micros());
    let keys: Vec<_> = (1..=AMENDABLE_BUCKETS).map(before).collect();
    let mut found: Vec<_> = hot::candles(redis, &keys).await?.into_iter().flatten().collect();
    found.push(current);
    // All trades of such a candle were busted.
    found.retain(|state| state.candle.trades > 0);
    Ok(found)
}
