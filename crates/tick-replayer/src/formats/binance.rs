//! Aggregate trades as published by Binance (<https://github.com/binance/binance-public-data>).
//!
//! The columns are `agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker`, in spot
//! files also `was_best_price`. Files before 2025 have times in ms, spot files since then in µs; futures files have a
//! header.

use std::path::Path;

use anyhow::{bail, ensure};
use csv::ByteRecord;
use storage_core::domain::symbol::Symbol;
use storage_core::domain::tick::{Side, Tick};

use super::decode;

/// Columns that hold numbers.
const NUMBERS: [usize; 3] = [0, 1, 5];

/// Returns the symbol in the name of a file such as `BTCUSDT-aggTrades-2024-01-01.csv`.
pub(super) fn symbol_in(path: &Path) -> Option<Symbol> {
    let (symbol, _) = path.file_name()?.to_str()?.split_once("-aggTrades")?;
    symbol.to_ascii_uppercase().parse().ok()
}

/// Returns `true` if the row has names in the columns that hold numbers.
pub(super) fn is_header(row: &ByteRecord) -> bool {
    NUMBERS.iter().all(|column| {
        row.get(*column)
            .is_some_and(|text| text.first().is_some_and(u8::is_ascii_alphabetic))
    })
}

/// Decodes an aggregate trade. Its trade ID is that of the aggregate.
pub(super) fn tick(symbol: &Symbol, row: &ByteRecord) -> anyhow::Result<Tick> {
    ensure!(
        matches!(row.len(), 7 | 8),
        "{} columns instead of 7, or 8 with was_best_price",
        row.len()
    );
    ensure!(
        !row[0].is_empty() && row[0].iter().all(u8::is_ascii_digit),
        "agg_trade_id is not a number"
    );
    let ts_us = micros(&row[5])?.to_string();
    // If the buyer was the maker, the taker sold.
    let side = if boolean(&row[6])? { Side::Sell } else { Side::Buy };
    decode([
        ("symbol", symbol.as_str().as_bytes()),
        ("ts_us", ts_us.as_bytes()),
        ("price", &row[1]),
        ("qty", &row[2]),
        ("trade_id", &row[0]),
        ("side", side.as_str().as_bytes()),
    ])
}

/// Parses a time in ms or µs and returns µs since 1970. The unit follows from the magnitude: times in both units lie
/// between 1973 and 5138.
fn micros(text: &[u8]) -> anyhow::Result<i64> {
    const MS: std::ops::Range<i64> = 100_000_000_000..100_000_000_000_000;
    const US: std::ops::Range<i64> = 100_000_000_000_000..100_000_000_000_000_000;
    match std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()) {
        Some(time) if MS.contains(&time) => Ok(time * 1_000),
        Some(time) if US.contains(&time) => Ok(time),
        _ => bail!("transact_time is not a time in ms or µs since 1970"),
    }
}

fn boolean(text: &[u8]) -> anyhow::Result<bool> {
    match text.to_ascii_lowercase().as_slice() {
        b"true" => Ok(true),
        b"false" => Ok(false),
        _ => bail!("is_buyer_maker is neither true nor false"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> anyhow::Result<Tick> {
        tick(&"XRPETH".parse().unwrap(), &line.split(',').collect::<Vec<_>>().into())
    }

    #[test]
    fn a_trade_of_the_recording_is_read_exactly() {
        let tick = read("13519807,0.00141342,23.00000000,15373518,15373518,1570752011620,true").unwrap();
        assert_eq!(tick.symbol.as_str(), "XRPETH");
        assert_eq!(tick.ts_us, 1_570_752_011_620_000);
        assert_eq!(tick.price, 0.00141342);
        assert_eq!(tick.qty.to_string(), "23");
        assert_eq!(tick.trade_id.as_deref(), Some("13519807"));
        assert_eq!(tick.side, Some(Side::Sell));
    }

    #[test]
    fn times_are_in_ms_or_us() {
        for (time, ts_us) in [
            ("1570752011620", 1_570_752_011_620_000),
            ("1735689600123456", 1_735_689_600_123_456),
        ] {
            assert_eq!(read(&format!("1,1,1,1,1,{time},false")).unwrap().ts_us, ts_us);
        }
        for time in ["1570752011", "1570752011620000000", "-1", "", "x", "1e12"] {
            assert!(read(&format!("1,1,1,1,1,{time},false")).is_err(), "{time}");
        }
    }

    #[test]
    fn an_eighth_column_and_capital_booleans_are_accepted() {
        let tick = read("1,1.5,0.30000000000000004,1,1,1570752011620,False,True").unwrap();
        assert_eq!(
            (tick.qty.to_string().as_str(), tick.side),
            ("0.30000000000000004", Some(Side::Buy))
        );
    }

    #[test]
    fn the_error_names_the_bad_column() {
        for (line, problem) in [
            ("1,2,3", "3 columns"),
            ("1,2,3,4,5,1570752011620,true,true,9", "9 columns"),
            ("a,1,1,1,1,1570752011620,true", "agg_trade_id"),
            ("1,x,1,1,1,1570752011620,true", "price"),
            ("1,1,0,1,1,1570752011620,true", "qty"),
            ("1,1,1,1,1,1570752011620,maybe", "is_buyer_maker"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
        }
    }

    #[test]
    fn a_header_has_names_in_the_columns_of_numbers() {
        let is_header = |line: &str| is_header(&line.split(',').collect::<Vec<_>>().into());
        assert!(is_header(
            "agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"
        ));
        assert!(is_header(
            "Aggregate tradeId,Price,Quantity,First tradeId,Last tradeId,Timestamp,Maker,Best"
        ));
        assert!(!is_header("x,0.5,1,1,1,1570752011620,true"));
        assert!(!is_header("rubbish"));
    }

    #[test]
    fn the_symbol_is_in_the_name_of_the_file() {
        let symbol = |path: &str| symbol_in(Path::new(path)).map(|symbol| symbol.to_string());
        assert_eq!(symbol("BTCUSDT-aggTrades-2024-01.csv").as_deref(), Some("BTCUSDT"));
        assert_eq!(
            symbol("seed/xrpeth-aggTrades-2019-10-11.csv").as_deref(),
            Some("XRPETH")
        );
        assert_eq!(symbol("trades.csv"), None);
        assert_eq!(symbol("-"), None);
        assert_eq!(symbol("-aggTrades.csv"), None);
    }
}
