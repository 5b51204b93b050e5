//! [`Decimal`]: exact quantities.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// An exact number `mantissa × 10^exponent`.
///
/// Quantities keep this form from the producer's text to the lots of the database, so that sums are exact and never
/// rounded to a double.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    mantissa: i128,
    exponent: i32,
}

/// Error of parsing a decimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDecimal {
    /// The text does not have the form `-12.5e-3`.
    #[error("not a decimal number")]
    Malformed,
    /// The number has too many digits or too large an exponent.
    #[error("a number with too many digits or too large an exponent")]
    TooLong,
}

/// Largest exponent, beyond which no quantity lies.
const MAX_EXPONENT: i32 = 300;

impl Decimal {
    /// Zero.
    pub const ZERO: Self = Self {
        mantissa: 0,
        exponent: 0,
    };

    /// Returns the number `lots × 10^-decimals`.
    pub fn from_lots(lots: i128, decimals: u8) -> Self {
        Self {
            mantissa: lots,
            exponent: -i32::from(decimals),
        }
    }

    /// Parses plain or scientific text (`9.2E-7`); `NaN` and `inf` are refused. Surrounding spaces are ignored.
    pub fn parse(text: &[u8]) -> Result<Self, InvalidDecimal> {
        let (negative, unsigned) = match text.trim_ascii() {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (digits, power) = match unsigned.iter().position(|b| matches!(b, b'e' | b'E')) {
            Some(at) => (&unsigned[..at], parse_exponent(&unsigned[at + 1..])?),
            None => (unsigned, 0),
        };
        let mut mantissa: i128 = 0;
        // Nearly all numbers fit in 64 bits, where multiplication is faster.
        let mut small: u64 = 0;
        let mut fraction_digits = 0;
        let mut any_digit = false;
        let mut in_fraction = false;
        for &b in digits {
            match b {
                b'0'..=b'9' => {
                    any_digit = true;
                    if mantissa == 0 && small < u64::MAX / 10 {
                        small = small * 10 + u64::from(b - b'0');
                    } else {
                        mantissa = mantissa
                            .max(small.into())
                            .checked_mul(10)
                            .and_then(|m| m.checked_add(i128::from(b - b'0')))
                            .ok_or(InvalidDecimal::TooLong)?;
                    }
                    fraction_digits += i32::from(in_fraction);
                }
                b'.' if !in_fraction => in_fraction = true,
                _ => return Err(InvalidDecimal::Malformed),
            }
        }
        if !any_digit {
            return Err(InvalidDecimal::Malformed);
        }
        let mantissa = mantissa.max(small.into());
        let exponent = power - fraction_digits;
        if exponent.abs() > MAX_EXPONENT {
            return Err(InvalidDecimal::TooLong);
        }
        Ok(Self {
            mantissa: if negative { -mantissa } else { mantissa },
            exponent,
        })
    }

    /// Returns `true` if the number is greater than zero.
    pub fn is_positive(self) -> bool {
        self.mantissa > 0
    }

    /// Returns `true` if the number is zero.
    pub fn is_zero(self) -> bool {
        self.mantissa == 0
    }

    /// Returns the sum, or `None` if 128 bits can't hold its digits.
    #[must_use]
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let exponent = self.exponent.min(other.exponent);
        let mantissa = self.scaled_to(exponent)?.checked_add(other.scaled_to(exponent)?)?;
        Some(Self { mantissa, exponent })
    }

    /// Returns the number of decimals that it needs and its digits without a point and without trailing zeros.
    pub(super) fn trimmed(self) -> (i32, i128) {
        let (mut mantissa, mut exponent) = (self.mantissa, self.exponent);
        while mantissa != 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        (-exponent, mantissa)
    }

    /// Returns the number in lots of `10^-decimals`, rounded half to even, and `true` if the result is exact. `None` if
    /// it does not fit in 128 bits.
    pub fn to_lots(self, decimals: u8) -> Option<(i128, bool)> {
        let shift = self.exponent + i32::from(decimals);
        if shift >= 0 {
            return Some((self.scaled_to(-i32::from(decimals))?, true));
        }
        let Some(divisor) = power_of_ten(shift.unsigned_abs()) else {
            return Some((0, self.mantissa == 0));
        };
        let (quotient, rest) = (self.mantissa / divisor, (self.mantissa % divisor).abs());
        let away = match (rest * 2).cmp(&divisor) {
            Ordering::Less => false,
            Ordering::Greater => true,
            Ordering::Equal => quotient % 2 != 0,
        };
        let rounded = if away {
            quotient + self.mantissa.signum()
        } else {
            quotient
        };
        Some((rounded, rest == 0))
    }

    /// Returns the nearest double.
    pub fn to_f64(self) -> f64 {
        self.to_string().parse().unwrap_or(f64::NAN)
    }

    fn scaled_to(self, exponent: i32) -> Option<i128> {
        if self.exponent == exponent || self.mantissa == 0 {
            return Some(self.mantissa);
        }
        let shift = u32::try_from(self.exponent - exponent).ok()?;
        self.mantissa.checked_mul(power_of_ten(shift)?)
    }
}

fn power_of_ten(power: u32) -> Option<i128> {
    // The comparison with half a divisor doubles a remainder, and 2 × 10^37 is the largest that fits.
    (power <= 37).then(|| 10_i128.pow(power))
}

fn parse_exponent(text: &[u8]) -> Result<i32, InvalidDecimal> {
    let text = std::str::from_utf8(text).map_err(|_| InvalidDecimal::Malformed)?;
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(InvalidDecimal::Malformed);
    }
    match text.parse::<i32>() {
        Ok(power) if power.abs() <= MAX_EXPONENT => Ok(power),
        _ => Err(InvalidDecimal::TooLong),
    }
}

impl FromStr for Decimal {
    type Err = InvalidDecimal;

    fn from_str(text: &str) -> Result<Self, InvalidDecimal> {
        Self::parse(text.as_bytes())
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        let exponent = self.exponent.min(other.exponent);
        match (self.scaled_to(exponent), other.scaled_to(exponent)) {
            (Some(a), Some(b)) => a == b,
            _ => false,
        }
    }
}

/// Formats the number without an exponent and without trailing zeros.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.mantissa < 0 { "-" } else { "" };
        let digits = self.mantissa.unsigned_abs().to_string();
        if self.mantissa == 0 {
            return f.pad("0");
        }
        if self.exponent >= 0 {
            let zeros = "0".repeat(usize::try_from(self.exponent).unwrap_or_default());
            return f.pad(&format!("{sign}{digits}{zeros}"));
        }
        let places = usize::try_from(self.exponent.unsigned_abs()).unwrap_or_default();
        let padded = format!("{digits:0>width$}", width = places + 1);
        let (whole, fraction) = padded.split_at(padded.len() - places);
        let fraction = fraction.trim_end_matches('0');
        let point = if fraction.is_empty() { "" } else { "." };
        f.pad(&format!("{sign}{whole}{point}{fraction}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lots(text: &str, decimals: u8) -> Option<(i128, bool)> {
        text.parse::<Decimal>().unwrap().to_lots(decimals)
    }

    #[test]
    fn reads_plain_and_scientific_text() {
        for (text, shown) in [
            ("23.00000000", "23"),
            ("0.005", "0.005"),
            ("9.2E-7", "0.00000092"),
            ("1.01748847777E7", "10174884.7777"),
            ("+1e3", "1000"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-1.5", "-1.5"),
            ("0e9", "0"),
            ("1e-05", "0.00001"),
            ("1E+05", "100000"),
            ("+1", "1"),
            ("+.5", "0.5"),
            (" 1\t", "1"),
        ] {
            assert_eq!(text.parse::<Decimal>().unwrap().to_string(), shown, "{text}");
        }
    }

    #[test]
    fn refuses_text_that_is_not_a_number() {
        for text in [
            "", ".", "NaN", "inf", "1e", "1e+", "1.2.3", "1,5", "1 0", "- 1", "0x10", "1e1.5", "--1", "1_000",
        ] {
            assert_eq!(text.parse::<Decimal>(), Err(InvalidDecimal::Malformed), "{text:?}");
        }
        for text in ["1e999", "1e-999", "1e99999999999", &"9".repeat(60)] {
            assert_eq!(text.parse::<Decimal>(), Err(InvalidDecimal::TooLong), "{text:?}");
        }
    }

    #[test]
    fn rounds_half_to_even() {
        assert_eq!(lots("0.005", 2), Some((0, false)));
        assert_eq!(lots("0.015", 2), Some((2, false)));
        assert_eq!(lots("0.025", 2), Some((2, false)));
        assert_eq!(lots("-0.015", 2), Some((-2, false)));
        assert_eq!(lots("0.00031099999999999997", 8), Some((31_100, false)));
        assert_eq!(lots("4043681.0359377135", 8), Some((404_368_103_593_771, false)));
        assert_eq!(lots("1e-290", 8), Some((0, false)));
        assert_eq!(lots("1e40", 8), None);
    }

    proptest! {
        #[test]
        fn text_of_lots_reads_back_as_the_same_lots(n in any::<i64>(), decimals in 0u8..=18) {
            let text = Decimal::from_lots(n.into(), decimals).to_string();
            prop_assert_eq!(lots(&text, decimals), Some((n.into(), true)));
        }

        #[test]
        fn sums_are_exact_in_any_order(numbers in prop::collection::vec((0i64..1_000_000_000, 0u8..=18), 1..20)) {
            let sum = |numbers: &[(i64, u8)]| numbers.iter().fold(Decimal::ZERO, |sum, (n, d)| {
                sum.checked_add(Decimal::from_lots((*n).into(), *d)).unwrap()
            });
            let reversed: Vec<_> = numbers.iter().rev().copied().collect();
            prop_assert_eq!(sum(&numbers).to_lots(18), sum(&reversed).to_lots(18));
        }

        #[test]
        fn any_float_reads_as_itself(x in 1e-12f64..1e12) {
            prop_assert_eq!(format!("{x}").parse::<Decimal>().unwrap().to_f64(), x);
            prop_assert_eq!(format!("{x:e}").parse::<Decimal>().unwrap().to_f64(), x);
        }
    }
}
