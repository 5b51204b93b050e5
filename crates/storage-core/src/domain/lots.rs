//! Lots: integers for quantities in the database.
//!
//! `volume` counts lots of `10^-volume_decimals`, so that sums of fractional quantities are exact. A quantity that the
//! lots of its symbol can't hold is rejected with the command that changes the lots, which aggregator-admin runs.
//!
//! A quantity is rounded, and counted as rounded, only where no lots hold it exactly or where its last digits are noise
//! of floating-point arithmetic, which more decimals would not make exact.

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
    /// Finer lots would hold the quantity exactly, or rounding would change it by more than a millionth of itself.
    TooFine,
    /// The quantity, or the volume of its minute, exceeds a bigint.
    TooLarge,
}

impl Lots {
    /// Converts `quantity` into lots of `10^-decimals`, rounded half to even.
    pub fn of(quantity: Decimal, decimals: u8) -> Result<Self, LotsError> {
        let (count, exact) = quantity.to_lots(decimals).ok_or(LotsError::TooLarge)?;
        let count = i64::try_from(count).map_err(|_| LotsError::TooLarge)?;
        if !exact && !may_be_rounded(quantity, count, decimals) {
            return Err(LotsError::TooFine);
        }
        Ok(Self { count, rounded: !exact })
    }
}

/// Number of significant digits that every double keeps; more digits may be noise.
const EXACT_DIGITS: u32 = 15;

/// Returns `true` if no lots hold `quantity` exactly, or if `count` lots differ from it by the noise of a double.
fn may_be_rounded(quantity: Decimal, count: i64, decimals: u8) -> bool {
    let (needed, digits) = quantity.trimmed();
    let fits_no_lots = needed > i32::from(MAX_VOLUME_DECIMALS) || i64::try_from(digits).is_err();
    let is_long = digits.unsigned_abs() >= 10_u128.pow(EXACT_DIGITS);
    let units = quantity.to_f64().abs();
    let change = (Decimal::from_lots(count.into(), decimals).to_f64() - quantity.to_f64()).abs();
    fits_no_lots && change <= units * 1e-6 || is_long && change <= units * 1e-15
}

/// Remedy for a quantity that no lots fit.
const ANOTHER: &str = "requeue it with a quantity that fits, `dead-letters requeue ID --set qty=QTY`";

/// Returns the rejection of a quantity with the command that changes the lots. `held` is the volume of its minute
/// without it.
pub fn rejection(symbol: &Symbol, quantity: Decimal, held: Decimal, error: LotsError, decimals: u8) -> Rejection {
    let qty = quantity.to_string();
    let remedy = match fitting_command(symbol, quantity, held) {
        Some(command) => format!("run `{command}`, then requeue this dead letter"),
        None if held.is_positive() => {
            format!("no number of decimals fits both it and the rest of its minute; {ANOTHER}")
        }
        None => format!("no number of decimals fits it; {ANOTHER}"),
    };
    match error {
        LotsError::TooFine => Rejection::TooFine { qty, decimals, remedy },
        LotsError::TooLarge => Rejection::TooLarge { qty, decimals, remedy },
    }
}

/// A quantity that does not fit the lots of its symbol.
#[derive(Clone, Copy, Debug)]
pub struct Misfit {
    /// The quantity in units.
    pub quantity: Decimal,
    /// Volume of its minute without it.
    pub held: Decimal,
}

impl Misfit {
    /// Returns `true` if lots of `10^-decimals` fit the quantity, hold the rest of its minute exactly, and hold `times`
    /// the volume of the minute.
    pub fn fits(&self, decimals: u8, times: i64) -> bool {
        let is_exact = self.held.to_lots(decimals).is_some_and(|(_, is_exact)| is_exact);
        let volume = self
            .quantity
            .checked_add(self.held)
            .and_then(|volume| volume.to_lots(decimals));
        let volume = volume.and_then(|(count, _)| i64::try_from(count).ok()?.checked_mul(times));
        is_exact && volume.is_some() && Lots::of(self.quantity, decimals).is_ok()
    }
}

/// Returns the decimals, at least `least`, of lots that fit all of `misfits`; `None` if no number of decimals does.
pub fn fitting_decimals(misfits: &[Misfit], least: u8) -> Option<u8> {
    let finest = |times: i64| {
        let fits = |decimals: u8| decimals >= least && misfits.iter().all(|misfit| misfit.fits(decimals, times));
        let mut coarser = (0..=DEFAULT_VOLUME_DECIMALS).rev();
        let mut finer = DEFAULT_VOLUME_DECIMALS..=MAX_VOLUME_DECIMALS;
        coarser
            .find(|decimals| fits(*decimals))
            .or_else(|| finer.find(|decimals| fits(*decimals)))
    };
    // Prefers lots that hold a thousand times the volume, for busy minutes, and among them the finest up to the
    // default.
    finest(1_000).or_else(|| finest(1))
}

/// Returns the command that sets the decimals of the lots so that they fit `quantity` and hold `held`, the rest of its
/// minute, exactly; `None` if no number of decimals does. The command rescales because the symbol may have rows;
/// without rows that changes nothing.
fn fitting_command(symbol: &Symbol, quantity: Decimal, held: Decimal) -> Option<String> {
    let decimals = fitting_decimals(&[Misfit { quantity, held }], 0)?;
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
    fn a_quantity_that_finer_lots_hold_is_never_rounded() {
        for quantity in [
            "12345.123456789",
            "1.1234567891",
            "0.123456789012345678",
            "1.000000000000001",
        ] {
            assert_eq!(of(quantity, 8), Err(LotsError::TooFine), "{quantity}");
            let needed = u8::try_from(quantity.len() - quantity.find('.').unwrap() - 1).unwrap();
            assert!(of(quantity, needed).is_ok_and(|lots| !lots.rounded), "{quantity}");
        }
        // No lots hold these.
        for quantity in [
            "1234.123456789012345678",
            "0.12345678901234567890123",
            "5000000000.1234567891",
        ] {
            assert!(of(quantity, 8).is_ok_and(|lots| lots.rounded), "{quantity}");
        }
    }

    #[test]
    fn decimals_fit_several_quantities_and_the_rows_that_are_stored() {
        let misfit = |quantity: &str, held: &str| Misfit {
            quantity: quantity.parse().unwrap(),
            held: held.parse().unwrap(),
        };
        let fine = misfit("0.000000001", "5");
        let finer = misfit("0.0000000001", "0");
        let large = misfit("90000000000", "90000000000");
        assert_eq!(fitting_decimals(&[fine, finer], 0), Some(10));
        assert_eq!(fitting_decimals(&[large], 0), Some(4));
        assert_eq!(fitting_decimals(&[large], 7), Some(7));
        assert_eq!(fitting_decimals(&[large], 8), None);
        assert_eq!(fitting_decimals(&[fine, large], 0), None);
        assert_eq!(fitting_decimals(&[], 0), Some(8));
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
