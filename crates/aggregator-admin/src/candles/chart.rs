//! Draws candles as text. Pure.

use storage_core::domain::time::rfc3339;
use storage_core::postgres::queries::candles::HistoryCandle;

const RISING: &str = "\x1b[32m";
const FALLING: &str = "\x1b[31m";
const FAINT: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// Content of a half of a cell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Nothing,
    Wick,
    Body,
}

/// Draws a column per candle in `height` rows, with prices at the left and times below. Without `colour`, falling
/// candles are solid and rising ones thin.
pub(crate) fn draw(candles: &[HistoryCandle], height: usize, colour: bool) -> String {
    let low = candles.iter().map(|candle| candle.low).fold(f64::INFINITY, f64::min);
    let high = candles
        .iter()
        .map(|candle| candle.high)
        .fold(f64::NEG_INFINITY, f64::max);
    if candles.is_empty() || height == 0 {
        return String::new();
    }
    let scale = Scale { low, high, height };
    let labels: Vec<String> = (0..height).map(|row| price(scale.price_of(row), high - low)).collect();
    let width = labels.iter().map(String::len).max().unwrap_or(0);
    let mut chart = String::new();
    for (row, label) in labels.iter().enumerate() {
        let label = if row % 3 == 0 || row + 1 == height {
            label.as_str()
        } else {
            ""
        };
        chart.push_str(&format!("{label:>width$} ┤"));
        for candle in candles {
            let rises = candle.close >= candle.open;
            let cell = cell(
                scale.half(candle, 2 * row),
                scale.half(candle, 2 * row + 1),
                rises || colour,
            );
            match (colour && cell != ' ', rises) {
                (false, _) => chart.push(cell),
                (true, true) => chart.push_str(&format!("{RISING}{cell}{RESET}")),
                (true, false) => chart.push_str(&format!("{FALLING}{cell}{RESET}")),
            }
        }
        chart.push('\n');
    }
    chart.push_str(&format!("{:>width$} └{}\n", "", "─".repeat(candles.len())));
    let times = times(candles);
    let times = if colour {
        format!("{FAINT}{times}{RESET}")
    } else {
        times
    };
    chart.push_str(&format!("{:>width$}  {times}\n", ""));
    chart
}

struct Scale {
    low: f64,
    high: f64,
    height: usize,
}

impl Scale {
    /// Returns the price in the middle of a row.
    #[allow(clippy::cast_precision_loss)] // a terminal has few rows
    fn price_of(&self, row: usize) -> f64 {
        self.high - (self.high - self.low) * (row as f64 + 0.5) / self.height as f64
    }

    /// Returns the half row, counted from the top, that contains `price`.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )] // within 0..2*height
    fn at(&self, price: f64) -> usize {
        let halves = 2 * self.height;
        let share = (self.high - price) / (self.high - self.low).max(f64::MIN_POSITIVE);
        ((share * halves as f64) as usize).min(halves - 1)
    }

    fn half(&self, candle: &HistoryCandle, half: usize) -> Half {
        let (top, bottom) = (
            self.at(candle.open.max(candle.close)),
            self.at(candle.open.min(candle.close)),
        );
        match half {
            _ if (top..=bottom).contains(&half) => Half::Body,
            _ if (self.at(candle.high)..=self.at(candle.low)).contains(&half) => Half::Wick,
            _ => Half::Nothing,
        }
    }
}

fn cell(upper: Half, lower: Half, thin: bool) -> char {
    use Half::{Body, Nothing, Wick};
    match (upper, lower, thin) {
        (Nothing, Nothing, _) => ' ',
        (Wick, Nothing, _) => '╵',
        (Nothing, Wick, _) => '╷',
        (Wick, Wick, _) => '│',
        (Body, Body, true) => '┃',
        (Body, Body, false) => '█',
        (Body, Nothing, true) => '╹',
        (Body, Nothing, false) => '▀',
        (Nothing, Body, true) => '╻',
        (Nothing, Body, false) => '▄',
        (Body, Wick, true) => '╿',
        (Body, Wick, false) => '▀',
        (Wick, Body, true) => '╽',
        (Wick, Body, false) => '▄',
    }
}

/// Formats a price with enough decimals to distinguish two rows.
fn price(price: f64, range: f64) -> String {
    let step = if range > 0.0 { range / 100.0 } else { price.abs() / 1e4 };
    let decimals = (0_i32..16)
        .find(|decimals| 10_f64.powi(-decimals) <= step)
        .unwrap_or(16);
    format!("{price:.*}", usize::try_from(decimals).unwrap_or(0))
}

fn times(candles: &[HistoryCandle]) -> String {
    let [Some(first), Some(last)] =
        [candles.first(), candles.last()].map(|end| end.map(|candle| rfc3339(candle.start_us)))
    else {
        return String::new();
    };
    // 2019-10-11T00:00:00Z becomes 2019-10-11 00:00
    let short = |time: String| time.get(..16).map_or(time.clone(), |time| time.replace('T', " "));
    let (first, last) = (short(first), short(last));
    match candles.len().checked_sub(first.len() + last.len()) {
        Some(gap) if gap > 0 => format!("{first}{:gap$}{last}", ""),
        _ => format!("{first} to {last}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candle(minute: i64, open: f64, high: f64, low: f64, close: f64) -> HistoryCandle {
        let volume = "1".parse().unwrap();
        HistoryCandle {
            start_us: minute * 60_000_000,
            open,
            high,
            low,
            close,
            volume,
            trades: 1,
            revision: 0,
        }
    }

    #[test]
    fn bodies_and_wicks_are_drawn_at_their_prices() {
        let candles = [
            candle(0, 1.0, 4.0, 0.0, 3.0),
            candle(1, 3.0, 3.0, 1.0, 1.0),
            candle(2, 2.0, 2.0, 2.0, 2.0),
        ];
        let chart = draw(&candles, 4, false);
        let expected = "\
3.50 ┤│  
2.50 ┤╽▄ 
1.50 ┤┃█╹
0.50 ┤╿▀ 
     └───
      1970-01-01 00:00 to 1970-01-01 00:02
";
        let shown: Vec<_> = chart.lines().map(str::trim_end).collect();
        let lines: Vec<_> = expected.lines().map(str::trim_end).collect();
        assert_eq!(shown.len(), lines.len(), "{chart}");
        assert_eq!(shown.last(), lines.last());
        assert!(
            chart.contains('│') && chart.contains('█') && chart.contains('┃'),
            "{chart}"
        );
    }

    #[test]
    fn a_constant_price_can_be_drawn() {
        let chart = draw(&[candle(0, 5.0, 5.0, 5.0, 5.0)], 3, false);
        assert!(chart.contains("5.000") && chart.contains('╹'), "{chart}");
        assert_eq!(draw(&[], 3, true), "");
    }
}
