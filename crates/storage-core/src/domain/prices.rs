//! [`Prices`]: the prices that a symbol can have.

use std::fmt;
use std::str::FromStr;

use super::rejection::Rejection;
use super::symbol::Symbol;

/// Prices that a symbol can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prices {
    /// Prices above zero.
    #[default]
    Positive,
    /// Prices above, at and below zero, as of spreads, funding rates and power.
    Any,
}

impl Prices {
    /// Returns `positive` or `any`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Positive => "positive",
            Self::Any => "any",
        }
    }
}

impl fmt::Display for Prices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Prices {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "positive" => Ok(Self::Positive),
            "any" => Ok(Self::Any),
            _ => Err("must be positive or any"),
        }
    }
}

/// Fails if `price` is not one that `symbol` can have.
pub fn check_price(symbol: &Symbol, price: f64, prices: Prices) -> Result<(), Rejection> {
    if price > 0.0 || prices == Prices::Any {
        return Ok(());
    }
    Err(Rejection::NotPositive {
        command: format!("aggregator-admin symbols set {} --prices any", symbol.shell_word()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_that_is_not_positive_needs_the_symbols_permission() {
        let oil: Symbol = "CL=F".parse().unwrap();
        for price in [-37.63, 0.0] {
            assert_eq!(check_price(&oil, price, Prices::Any), Ok(()));
            let reason = check_price(&oil, price, Prices::Positive).unwrap_err().to_string();
            assert!(reason.starts_with("field `price` must be positive"), "{reason}");
            assert!(
                reason.contains("`aggregator-admin symbols set 'CL=F' --prices any`"),
                "{reason}"
            );
        }
        assert_eq!(check_price(&oil, 0.01, Prices::Positive), Ok(()));
    }
}
