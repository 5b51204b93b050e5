//! Event times in µs, and values that are times in another unit.

use super::decimal::Decimal;
use super::entry::{invalid, required, utf8};
use super::rejection::Rejection;

/// First µs of 1973. Earlier values are times in seconds or milliseconds, or of a year in which few markets were
/// recorded.
const YEAR_1973_US: i64 = 94_694_400_000_000;

/// First value that is a time in ns: of 1973, while as µs it would be in the year 4970.
const YEAR_1973_NS: i64 = YEAR_1973_US * 1_000;

/// First ms of 1973, and the first second.
const YEAR_1973_MS: i64 = YEAR_1973_US / 1_000;
const YEAR_1973_S: i64 = YEAR_1973_US / 1_000_000;

/// Parses the value of field `ts_us`. A value that can only be a time in ns is rejected.
pub(super) fn parse_ts_us(value: Option<&[u8]>) -> Result<i64, Rejection> {
    let bytes = required("ts_us", value)?;
    let ts_us = match utf8("ts_us", bytes)?.parse() {
        Ok(ts_us) => ts_us,
        Err(_) => parse_number(bytes)?,
    };
    match ts_us {
        YEAR_1973_NS.. => Err(other_unit("nanoseconds")),
        0.. => Ok(ts_us),
        _ => Err(invalid("ts_us", "is before 1970")),
    }
}

/// Parses a whole number in any notation, as languages without large integers write it.
fn parse_number(bytes: &[u8]) -> Result<i64, Rejection> {
    let number = Decimal::parse(bytes).ok().and_then(|number| number.to_lots(0));
    match number.and_then(|(whole, is_exact)| Some((i64::try_from(whole).ok()?, is_exact))) {
        Some((ts_us, true)) => Ok(ts_us),
        Some((whole, false)) => {
            check_unit(whole, false)?;
            Err(invalid("ts_us", "is not a whole number of µs"))
        }
        None => Err(invalid("ts_us", "is not an integer, or out of range")),
    }
}

/// Rejects a time before 1973, and names the unit that it has probably. With `before_1973` it is accepted.
pub fn check_unit(ts_us: i64, before_1973: bool) -> Result<(), Rejection> {
    match ts_us {
        YEAR_1973_US.. => Ok(()),
        _ if before_1973 => Ok(()),
        YEAR_1973_MS.. => Err(other_unit("milliseconds")),
        YEAR_1973_S.. => Err(other_unit("seconds")),
        _ => Err(invalid(
            "ts_us",
            "is before 1973; it must be in µs since 1970, and times before 1973 need the setting `stream.before_1973`",
        )),
    }
}

fn other_unit(unit: &str) -> Rejection {
    invalid("ts_us", format_args!("looks like {unit}; it must be in µs since 1970"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> String {
        let parsed = parse_ts_us(Some(text.as_bytes())).and_then(|ts_us| check_unit(ts_us, false).map(|()| ts_us));
        parsed.map_or_else(|rejection| rejection.to_string(), |ts_us| ts_us.to_string())
    }

    #[test]
    fn another_unit_is_named() {
        for (text, unit) in [
            ("1700000000", "seconds"),
            ("1700000000.123", "seconds"),
            ("1.7e9", "seconds"),
            ("1700000000123", "milliseconds"),
            ("1700000000123.456", "milliseconds"),
            ("1700000000123456789", "nanoseconds"),
            ("94694400", "seconds"),
            ("94694400000", "milliseconds"),
            ("94694400000000000", "nanoseconds"),
        ] {
            assert_eq!(
                reason(text),
                format!("field `ts_us` looks like {unit}; it must be in µs since 1970"),
                "{text}"
            );
        }
        for text in ["1700000000123456", "94694400000000", "4102444800000000"] {
            assert_eq!(reason(text), text);
        }
    }

    #[test]
    fn a_time_before_1973_needs_a_setting() {
        assert!(reason("0").contains("`stream.before_1973`"));
        for ts_us in [0, 1_700_000_000, 1_700_000_000_123] {
            assert_eq!(check_unit(ts_us, true), Ok(()));
        }
    }

    #[test]
    fn a_value_that_is_no_time_is_refused() {
        assert_eq!(reason("-1"), "field `ts_us` is before 1970");
        assert_eq!(
            reason("1700000000123456.5"),
            "field `ts_us` is not a whole number of µs"
        );
        for text in ["", "soon", "1e30", "9223372036854775808", "NaN", "2023-11-14T22:13:20Z"] {
            assert_eq!(
                reason(text),
                "field `ts_us` is not an integer, or out of range",
                "{text}"
            );
        }
    }
}
