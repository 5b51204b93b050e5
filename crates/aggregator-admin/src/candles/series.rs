//! Merges history and hot view into one series. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use storage_core::domain::candle::{Candle, CandleState};
use storage_core::postgres::queries::candles::HistoryCandle;

/// Source of a candle of a series. The names in CSV and JSON are public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// The history.
    Stored,
    /// Redis: closed, and not yet in the history in this state.
    Closing,
    /// Redis: open.
    #[serde(rename = "making")]
    Open,
}

/// Candle of a series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) candle: HistoryCandle,
    pub(crate) state: State,
}

/// Converts a candle of Redis to the form of the history.
pub(crate) fn history_candle(candle: &Candle) -> HistoryCandle {
    HistoryCandle {
        start_us: candle.start_us,
        open: candle.open,
        high: candle.high,
        low: candle.low,
        close: candle.close,
        volume: candle.volume,
        trades: candle.trades,
        revision: candle.revision.as_i64(),
    }
}

/// Merges both sources and returns the newest `limit` candles, oldest first. A hot candle replaces a stored one if it
/// has a higher revision and at least as many trades, or has the same revision and is open. A hot candle with fewer
/// trades lacks its earlier state.
pub(crate) fn merge(history: Vec<HistoryCandle>, hot: Vec<CandleState>, limit: usize) -> Vec<Point> {
    let stored = |candle: HistoryCandle| {
        let state = State::Stored;
        (candle.start_us, Point { candle, state })
    };
    let mut merged: BTreeMap<i64, Point> = history.into_iter().map(stored).collect();
    for CandleState { candle, is_final } in hot {
        let candle = history_candle(&candle);
        let state = if is_final { State::Closing } else { State::Open };
        let is_superseded = merged.get(&candle.start_us).is_some_and(|stored| {
            let stored = &stored.candle;
            stored.revision > candle.revision
                || stored.trades > candle.trades
                || is_final && stored.revision == candle.revision
        });
        if !is_superseded {
            merged.insert(candle.start_us, Point { candle, state });
        }
    }
    let surplus = merged.len().saturating_sub(limit);
    merged.into_values().skip(surplus).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_core::domain::timeframe::Timeframe;

    const MINUTE: i64 = 60_000_000;

    fn row(minute: i64, trades: i64, revision: i64) -> HistoryCandle {
        let volume = "1.5".parse().unwrap();
        HistoryCandle {
            start_us: minute * MINUTE,
            open: 1.0,
            high: 2.0,
            low: 0.5,
            close: 1.5,
            volume,
            trades,
            revision,
        }
    }

    fn hot(minute: i64, trades: i64, revision: i64, is_final: bool) -> CandleState {
        let candle = Candle::of_tick(
            Timeframe::M1,
            minute * MINUTE,
            1.0,
            "2".parse().unwrap(),
            revision.try_into().unwrap(),
        );
        CandleState {
            candle: Candle { trades, ..candle },
            is_final,
        }
    }

    #[test]
    fn the_hot_candles_continue_the_history_and_replace_older_states() {
        let history = vec![row(1, 5, 10), row(2, 5, 20), row(3, 5, 30)];
        let merged = merge(
            history,
            vec![hot(2, 5, 20, true), hot(3, 6, 31, true), hot(4, 1, 40, false)],
            10,
        );
        let states: Vec<_> = merged
            .iter()
            .map(|point| (point.candle.start_us / MINUTE, point.candle.trades, point.state))
            .collect();
        let expected = [
            (1, 5, State::Stored),
            (2, 5, State::Stored),
            (3, 6, State::Closing),
            (4, 1, State::Open),
        ];
        assert_eq!(states, expected);
        assert_eq!(
            merge(vec![row(1, 5, 10), row(2, 5, 20)], vec![hot(3, 1, 30, false)], 2).len(),
            2
        );
    }

    #[test]
    fn a_hot_candle_that_began_late_does_not_hide_the_history() {
        let merged = merge(vec![row(1, 5, 10)], vec![hot(1, 2, 99, false)], 10);
        assert_eq!((merged[0].candle.trades, merged[0].state), (5, State::Stored));
    }
}
