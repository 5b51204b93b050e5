//! Lots: how quantities become the database's integers.
//!
//! `volume` counts lots of `10^-volume_decimals`, so that sums of fractional sizes are exact. A quantity that
//! its symbol's lots can't hold is refused with the command that mends it, never silently changed.

use super::decimal::Decimal;
use super::rejection::Rejection;
use super::symbol::Symbol;

/// The decimals of a symbol's lots unless `symbols` says otherwise.
pub const DEFAULT_VOLUME_DECIMALS: u8 = 8;

/// The most decimals that a symbol's lots can have.
pub const MAX_VOLUME_DECIMALS: u8 = 18;

/// A quantity in lots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lots {
    /// The number of lots.
    pub count: i64,
    /// Whether the quantity had to be rounded to reach it.
    pub rounded: bool,
}

/// Why a quantity can't be counted in a symbol's lots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LotsError {
    /// Rounding to a lot would change the quantity by more than a millionth of itself.
    TooFine,
    /// The quantity, or the sum that it would lead to, is beyond a bigint.
    TooLarge,
}

impl Lots {
    /// Counts `quantity` in lots of `10^-decimals`, rounding half to even.
    ///
    /// # Errors
    /// When a bigint can't hold the count, or rounding would change the quantity by more than a millionth of itself.
    pub fn of(quantity: Decimal, decimals: u8) -> Result<Self, LotsError> {
        let (count, exact) = quantity.to_lots(decimals).ok_or(LotsError::TooLarge)?;
        let count = i64::try_from(count).map_err(|_| LotsError::TooLarge)?;
        if !exact {
            let units = quantity.to_f64();
            let change = (Decimal::from_lots(count.into(), decimals).to_f64() - units).abs();
            if change > units.abs() * 1e-6 {
                return Err(LotsError::TooFine);
            }
        }
        Ok(Self { count, rounded: !exact })
    }
}

/// The rejection of `quantity` of `symbol` because of `error`; it names the command that mends it.
pub fn rejection(symbol: &Symbol, quantity: Decimal, error: LotsError, decimals: u8) -> Rejection {
    let qty = quantity.to_string();
    let remedy = match fitting_command(symbol, quantity) {
        Some(command) => format!("run `{command}`, then requeue this dead letter"),
        None => "no lots can hold such a quantity".to_owned(),
    };
    match error {
        LotsError::TooFine => Rejection::TooFine { qty, decimals, remedy },
        LotsError::TooLarge => Rejection::TooLarge { qty, decimals, remedy },
    }
}

/// The command that makes a symbol's lots fit `quantity`, or `None` where no number of decimals would.
pub fn fitting_command(symbol: &Symbol, quantity: Decimal) -> Option<String> {
    // Headroom for a busy minute: prefer lots in which a thousand such ticks still fit, as fine as possible up to the default.
    let fits = |decimals: &u8| Lots::of(quantity, *decimals).is_ok_and(|lots| lots.count.checked_mul(1_000).is_some());
    let decimals = (0..=DEFAULT_VOLUME_DECIMALS)
        .rev()
        .find(fits)
        .or_else(|| (DEFAULT_VOLUME_DECIMALS..=MAX_VOLUME_DECIMALS).find(fits))?;
    Some(format!(
        "aggregator-admin symbols set {symbol} --volume-decimals {decimals}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, decimals: u8) -> Result<Lots, LotsError> {
        Lots::of(text.parse().unwrap(), decimals)
    }

    #[test]
    fn float_noise_rounds_to_the_lot_that_was_meant() {
        assert_eq!(
            of("0.00031099999999999997", 8),
            Ok(Lots {
                count: 31_100,
                rounded: true
            })
        );
        assert_eq!(
            of("4043681.0359377135", 8),
            Ok(Lots {
                count: 404_368_103_593_771,
                rounded: true
            })
        );
        assert_eq!(
            of("9.2E-7", 8),
            Ok(Lots {
                count: 92,
                rounded: false
            })
        );
        assert_eq!(
            of("1.01748847777E7", 8),
            Ok(Lots {
                count: 1_017_488_477_770_000,
                rounded: false
            })
        );
    }

    #[test]
    fn what_lots_cannot_hold_is_refused_not_changed() {
        assert_eq!(of("0.000000001", 8), Err(LotsError::TooFine));
        assert_eq!(of("1.234e-8", 8), Err(LotsError::TooFine));
        assert_eq!(of("100000000000", 8), Err(LotsError::TooLarge));
        assert_eq!(of("1e200", 8), Err(LotsError::TooLarge));
    }

    #[test]
    fn the_command_names_decimals_that_do_fit() {
        let symbol: Symbol = "PEPEUSDT".parse().unwrap();
        let command = |text: &str| fitting_command(&symbol, text.parse().unwrap());
        assert_eq!(
            command("100000000000").unwrap(),
            "aggregator-admin symbols set PEPEUSDT --volume-decimals 4"
        );
        assert_eq!(
            command("0.000000001").unwrap(),
            "aggregator-admin symbols set PEPEUSDT --volume-decimals 9"
        );
        assert_eq!(command("1e200"), None);
        assert_eq!(command("1e-200"), None);
    }
}
