//! Trade IDs: their canonical form, and those that are numbers.

/// Largest number of digits of a numeric ID: a bigint holds every number of 18 digits, and `ticks` stores longer IDs as
/// text.
const MAX_DIGITS: usize = 18;

/// Returns the number that `id` writes in canonical form, without leading zeros, sign or space. `None` for any other
/// text: `007` is another ID than `7`.
pub fn as_number(id: &str) -> Option<u64> {
    let is_canonical = id == "0" || !id.starts_with('0');
    let is_digits = (1..=MAX_DIGITS).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_digit());
    (is_canonical && is_digits).then(|| id.parse().ok()).flatten()
}

/// Returns the canonical form of a trade ID: `701` for `701.0`, which a data frame makes of a column of integers with a
/// missing value. Nothing else is changed: `007`, `+7`, `7.01e2` and `7.5` are IDs of their own, because some exchange
/// may mean something else by them.
pub fn canonical(id: &str) -> &str {
    let Some((whole, fraction)) = id.split_once('.') else {
        return id;
    };
    let is_integer = !whole.is_empty() && whole.bytes().all(|byte| byte.is_ascii_digit());
    let is_canonical = is_integer && (whole == "0" || !whole.starts_with('0'));
    let is_zero = !fraction.is_empty() && fraction.bytes().all(|byte| byte == b'0');
    if is_canonical && is_zero { whole } else { id }
}

#[cfg(test)]
mod tests {
    use super::{as_number, canonical};
    use proptest::prelude::*;

    const MAX: u64 = 999_999_999_999_999_999;

    proptest! {
        #[test]
        fn a_number_of_up_to_18_digits_is_kept_as_a_number(number in 0..=MAX) {
            prop_assert_eq!(as_number(&number.to_string()), Some(number));
        }

        #[test]
        fn a_longer_number_is_text(number in MAX + 1..) {
            prop_assert_eq!(as_number(&number.to_string()), None);
        }

        #[test]
        fn only_the_canonical_text_of_a_number_is_a_number(text in "[-+ 0-9.e٣]{0,20}") {
            prop_assert!(as_number(&text).is_none_or(|number| number.to_string() == text));
        }
    }

    #[test]
    fn only_a_number_with_a_fraction_of_zeros_has_another_canonical_form() {
        for (id, expected) in [
            ("701.0", "701"),
            ("0.0", "0"),
            ("99999999999999999999.00", "99999999999999999999"),
        ] {
            assert_eq!(canonical(id), expected);
        }
        for id in [
            "701", "701.5", "701.", ".0", "007.0", "+7.0", "-7.0", "7.0.0", "7e2", "1_0.0", "a.0", "٣.0", "",
        ] {
            assert_eq!(canonical(id), id);
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_its_own(id in "[0-9.a]{0,8}") {
            prop_assert_eq!(canonical(canonical(&id)), canonical(&id));
        }
    }

    #[test]
    fn other_ways_to_write_a_number_are_text() {
        for id in ["", "007", "+5", "-5", " 5", "5.0", "1e3", "a", "٣"] {
            assert_eq!(as_number(id), None, "{id}");
        }
    }
}
