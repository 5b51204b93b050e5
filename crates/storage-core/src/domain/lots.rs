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

/// The rejection of `quantity` of `symbol` because of `error`, where its minute holds `held` without it; names the command that
/// mends it.
pub fn rejection(symbol: &Symbol, quantity: Decimal, held: Decimal, error: LotsError, decimals: u8) -> Rejection {
    let qty = quantity.to_string();
    let remedy = match fitting_command(symbol, quantity, held) {
        Some(command) => format!("run `{command}`, then requeue this dead letter"),
        None if held.is_positive() => "no lots can hold both it and the rest of its minute".to_owned(),
        None => "no lots can hold such a quantity".to_owned(),
    };
    match error {
        LotsError::TooFine => Rejection::TooFine { qty, decimals, remedy },
        LotsError::TooLarge => Rejection::TooLarge { qty, decimals, remedy },
    }
}

/// The command that makes a symbol's lots fit `quantity` and, exactly, the `held` rest of its minute; `None` where no number of
/// decimals would. It rescales, because the symbol may have rows; where it has none that does nothing.
pub fn fitting_command(symbol: &Symbol, quantity: Decimal, held: Decimal) -> Option<String> {
    let volume = quantity.checked_add(held)?;
    let fits = |decimals: u8, times: i64| {
        let is_exact = held.to_lots(decimals).is_some_and(|(_, is_exact)| is_exact);
        let fits = Lots::of(volume, decimals).is_ok_and(|lots| lots.count.checked_mul(times).is_some());
        is_exact && fits && Lots::of(quantity, decimals).is_ok()
    };
    let finest = |times: i64| {
        let mut coarser = (0..=DEFAULT_VOLUME_DECIMALS).rev();
        let mut finer = DEFAULT_VOLUME_DECIMALS..=MAX_VOLUME_DECIMALS;
        coarser
            .find(|decimals| fits(*decimals, times))
            .or_else(|| finer.find(|decimals| fits(*decimals, times)))
    };
    // Headroom for a busy minute: prefer lots in which a thousand times as much fits, as fine as possible up to the default.
    let decimals = finest(1_000).or_else(|| finest(1))?;
    Some(format!(
        "aggregator-admin symbols set {symbol} --volume-decimals {decimals} --rescale"
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
        let decimals = |quantity: &str, held: &str| {
            let command = fitting_command(&symbol, quantity.parse().unwrap(), held.parse().unwrap())?;
            let rest = command.strip_prefix("aggregator-admin symbols set PEPEUSDT --volume-decimals ")?;
            rest.strip_suffix(" --rescale")?.parse::<u8>().ok()
        };
        assert_eq!(decimals("100000000000", "0"), Some(4));
        assert_eq!(decimals("0.000000001", "0"), Some(9));
        assert_eq!(decimals("1e200", "0"), None);
        assert_eq!(decimals("1e-200", "0"), None);
        // A small quantity that is the last straw: what counts is the minute.
        assert_eq!(decimals("0.5", "92233720368.5"), Some(4));
        // Without headroom where only that keeps the rest exact, and none where the rest can't be.
        assert_eq!(decimals("1", "92233720368.5000001"), Some(7));
        assert_eq!(decimals("1", "92233720368.50000001"), None);
    }
}
