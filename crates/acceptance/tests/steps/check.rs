//! Comparisons whose failure names what was expected and what was found, for use in `until`.

use std::fmt::Debug;

/// Checks that two values are equal.
pub(crate) fn equal<F: Debug + PartialEq<E>, E: Debug>(found: &F, expected: &E) -> Result<(), String> {
    check(found == expected, expected, found)
}

/// Checks that `holds`, where `expected` describes what must hold for `found`.
pub(crate) fn check(holds: bool, expected: impl Debug, found: impl Debug) -> Result<(), String> {
    match holds {
        true => Ok(()),
        false => Err(format!("expected {expected:?}, found {found:?}")),
    }
}

/// Returns `true` if both texts are equal or the same number.
pub(crate) fn same(found: &str, expected: &str) -> bool {
    found == expected || matches!((found.parse::<f64>(), expected.parse::<f64>()), (Ok(a), Ok(b)) if a == b)
}
