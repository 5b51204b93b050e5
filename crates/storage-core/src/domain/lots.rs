//! Lots: integers for quantities in the database.
//!
//! `volume` counts lots of `10^-volume_decimals`, so that sums of fractional quantities are exact. A quantity that the
//! lots of its symbol can't hold is rejected with the command that changes the lots; it is never changed silently.

use super::decimal::Decimal;
use super::rejection::Rejection;
use super::symbol::Symbol;

/// Volume decimals of a symbol for which `symbols` holds no other number.
pub const DEFAULT_VOLUME_DECIMALS: u8 = 8;

/// Largest number of volume decimals.
pub const MAX_VOLUME_DECIMALS: u8 = 18;

/// A quantity in lots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lots {
    /// Number of lots.
    pub count: i64,
    /// `true` if the quantity was rounded.
    pub rounded: bool,
}

/// Error of converting a quantity into lots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LotsError {
    /// Rounding to a lot would change the quantity by more than a millionth of itself.
    TooFine,
    /// The quantity, or the volume of its minute, exceeds a bigint.
    TooLarge,
}

impl Lots {
    /// Converts `quantity` into lots of `10^-decimals`, rounded half to even.
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

/// Returns the rejection of a quantity with the command that changes the lots. `held` is the volume of its minute
/// without it.
pub fn rejection(symbol: &Symbol, quantity: Decimal, held: Decimal, error: LotsError, decimals: u8) -> Rejection {
    let qty = quantity.to_string();
    let remedy = match fitting_command(symbol, quantity, held) {
        Some(command) => format!("run `{command}`, then requeue this dead letter"),
        None if held.is_positive() => "no number of decimals fits both it and the rest of its minute".to_owned(),
        None => "no number of decimals fits it".to_owned(),
    };
    match error {
        LotsError::TooFine => Rejection::TooFine { qty, decimals, remedy },
        LotsError::TooLarge => Rejection::TooLarge { qty, decimals, remedy },
    }
}

/// Returns the command that sets the decimals of the lots so that they fit `quantity` and hold `held`, the rest of its
/// minute, exactly; `None` if no number of decimals does. The command rescales because the symbol may have rows;
/// without rows that changes nothing.
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
    // Prefers lots that hold a thousand times the volume, for busy minutes, and among them the finest up to the
    // default.
    let decimals = finest(1_000).or_else(|| finest(1))?;
    Some(format!(
        "aggregator-admin symbols set {} --volume-decimals {decimals} --rescale",
        symbol.shell_word()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str, decimals: u8) -> Result<Lots, LotsError> {
        Lots::of(text.parse().unwrap(), decimals)
    }

    #[test]
    fn float_noise_is_rounded_to_the_nearest_lot() {
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
    fn a_quantity_beyond_the_lots_is_refused() {
        assert_eq!(of("0.000000001", 8), Err(LotsError::TooFine));
        assert_eq!(of("1.234e-8", 8), Err(LotsError::TooFine));
        assert_eq!(of("100000000000", 8), Err(LotsError::TooLarge));
        assert_eq!(of("1e200", 8), Err(LotsError::TooLarge));
    }

    #[test]
    fn the_command_names_decimals_that_fit() {
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
        // The volume of the minute counts, not only the quantity.
        assert_eq!(decimals("0.5", "92233720368.5"), Some(4));
        // The lots hold no thousand times the volume if only these decimals keep the rest exact.
        assert_eq!(decimals("1", "92233720368.5000001"), Some(7));
        assert_eq!(decimals("1", "92233720368.50000001"), None);
    }
}
