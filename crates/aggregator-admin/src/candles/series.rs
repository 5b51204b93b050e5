//! History and hot view as one series. Pure.

use std::collections::BTreeMap;

use serde::Serialize;
use storage_core::domain::candle::CandleState;
use storage_core::domain::decimal::Decimal;
use storage_core::postgres::queries::candles::HistoryCandle;

/// Where a candle of a series comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// The history holds it.
    Stored,
    /// Redis holds a newer state of it, which is on its way into the history.
    Closing,
    /// It is still in the making.
    Making,
}

impl State {
    /// The name in tables, CSV and JSON.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Closing => "closing",
            Self::Making => "making",
        }
    }
}

/// A candle of a series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) start_us: i64,
    pub(crate) open: f64,
    pub(crate) high: f64,
    pub(crate) low: f64,
    pub(crate) close: f64,
    pub(crate) volume: Decimal,
    pub(crate) trades: i64,
    pub(crate) state: State,
}

/// The newest `limit` candles of both, oldest first. Where both have a bucket, the hot candle counts if it is newer and
/// holds at least as many trades, or is the same and still in the making: one that began without the earlier state does not.
pub(crate) fn merge(history: Vec<HistoryCandle>, hot: Vec<CandleState>, limit: usize) -> Vec<Point> {
    let mut merged: BTreeMap<i64, (i64, Point)> = history.into_iter().map(stored).collect();
    for CandleState { candle, is_final } in hot {
        let revision = candle.revision.as_i64();
        let known = merged.get(&candle.start_us);
        let is_behind = |(known, point): &(i64, Point)| *known > revision || point.trades > candle.trades;
        if known.is_some_and(|known| is_behind(known) || is_final && known.0 == revision) {
            continue;
        }
        let state = if is_final { State::Closing } else { State::Making };
        let point = Point {
            start_us: candle.start_us,
            open: candle.open,
            high: candle.high,
            low: candle.low,
            close: candle.close,
            volume: candle.volume,
            trades: candle.trades,
            state,
        };
        merged.insert(candle.start_us, (revision, point));
    }
    let surplus = merged.len().saturating_sub(limit);
    merged.into_values().skip(surplus).map(|(_, point)| point).collect()
}

fn stored(row: HistoryCandle) -> (i64, (i64, Point)) {
    let point = Point {
        start_us: row.start_us,
        open: row.open,
        high: row.high,
        low: row.low,
        close: row.close,
        volume: row.volume,
        trades: row.trades,
        state: State::Stored,
    };
    (row.start_us, (row.revision, point))
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_core::domain::candle::Candle;
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
            .map(|point| (point.start_us / MINUTE, point.trades, point.state))
            .collect();
        let expected = [
            (1, 5, State::Stored),
            (2, 5, State::Stored),
            (3, 6, State::Closing),
            (4, 1, State::Making),
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
        assert_eq!((merged[0].trades, merged[0].state), (5, State::Stored));
    }
}
