//! Fields that must not be zero: `#[serde(deserialize_with = "positive::number")]`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

const EXPECTED: &str = "must be greater than 0";

/// A number other than 0.
///
/// # Errors
/// If it is 0.
pub fn number<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default + PartialEq,
{
    let number = T::deserialize(deserializer)?;
    if number == T::default() {
        return Err(de::Error::custom(EXPECTED));
    }
    Ok(number)
}

/// A duration such as `10m`, longer than nothing.
///
/// # Errors
/// If it is no duration or `0s`.
pub fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration: Duration = humantime_serde::deserialize(deserializer)?;
    if duration.is_zero() {
        return Err(de::Error::custom(EXPECTED));
    }
    Ok(duration)
}
