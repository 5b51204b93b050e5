//! Trade IDs that are numbers.

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

#[cfg(test)]
mod tests {
    use super::as_number;
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
    fn other_ways_to_write_a_number_are_text() {
        for id in ["", "007", "+5", "-5", " 5", "5.0", "1e3", "a", "٣"] {
            assert_eq!(as_number(id), None, "{id}");
        }
    }
}
