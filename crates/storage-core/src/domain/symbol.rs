//! [`Symbol`]: the name of a traded instrument.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

/// The name of a traded instrument: 1 to 64 characters of `A-Z a-z 0-9 . _ - /`. Cheap to clone.
///
/// The colon is excluded, so that a key can be split into its parts, and so are braces, so that a symbol can't choose
/// its slot of Redis Cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Symbol(CompactString);

/// A text that is not a symbol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 characters of A-Z a-z 0-9 . _ - /")]
pub struct InvalidSymbol;

impl Symbol {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Symbol {
    type Err = InvalidSymbol;

    fn from_str(text: &str) -> Result<Self, InvalidSymbol> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/');
        if (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidSymbol)
        }
    }
}

impl TryFrom<String> for Symbol {
    type Error = InvalidSymbol;

    fn try_from(text: String) -> Result<Self, InvalidSymbol> {
        text.parse()
    }
}

impl From<Symbol> for String {
    fn from(symbol: Symbol) -> Self {
        symbol.as_str().to_owned()
    }
}

/// Allows a lookup by text in a map by symbol.
impl Borrow<str> for Symbol {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_names_that_exchanges_use() {
        for text in ["BTCUSDT", "BRK.B", "eur/usd", "ES_F-2026", &"A".repeat(64)] {
            assert_eq!(text.parse::<Symbol>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn refuses_characters_that_would_break_a_key() {
        for text in ["", "A:B", "A B", "{A}", "Ä", "A\n", &"A".repeat(65)] {
            assert_eq!(text.parse::<Symbol>(), Err(InvalidSymbol), "{text:?}");
        }
    }
}
