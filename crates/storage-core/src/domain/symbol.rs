//! [`Symbol`]: the name of a traded instrument.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::str::FromStr;

use compact_str::CompactString;
use serde::{Deserialize, Serialize};

/// The name of a traded instrument: 1 to 64 bytes of printable UTF-8 without `:`, `{`, `}` and spaces. Cheap to clone.
///
/// The colon is excluded, so that a key can be split into its parts, and so are braces, so that a symbol can't choose
/// its slot of Redis Cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Symbol(CompactString);

/// A text that is not a symbol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 1 to 64 bytes of printable UTF-8 without `:`, `{{`, `}}` and spaces")]
pub struct InvalidSymbol;

impl Symbol {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the text as a word of a shell command, in quotation marks where it needs them.
    pub fn shell_word(&self) -> Cow<'_, str> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/') || !b.is_ascii();
        match self.as_str() {
            text if text.bytes().all(is_plain) => Cow::Borrowed(text),
            text => Cow::Owned(format!("'{}'", text.replace('\'', r"'\''"))),
        }
    }
}

impl FromStr for Symbol {
    type Err = InvalidSymbol;

    fn from_str(text: &str) -> Result<Self, InvalidSymbol> {
        let is_allowed = |b: u8| b > b' ' && !matches!(b, b':' | b'{' | b'}' | 0x7f);
        let is_printable = || text.is_ascii() || text.chars().all(|c| c.is_ascii() || is_printable(c));
        if (1..=64).contains(&text.len()) && text.bytes().all(is_allowed) && is_printable() {
            Ok(Self(text.into()))
        } else {
            Err(InvalidSymbol)
        }
    }
}

/// Returns `true` unless `c` is a space, a control character, or invisible. A mark that combines with the character
/// before it is printable.
fn is_printable(c: char) -> bool {
    // Only the first character of a text is escaped because it combines.
    let after_a_letter = ['a', c].iter().collect::<String>();
    !c.is_whitespace() && after_a_letter.escape_debug().nth(1) == Some(c)
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
        for text in [
            "BTCUSDT",
            "BRK.B",
            "eur/usd",
            "ES_F-2026",
            "^GSPC",
            "M&M.NS",
            "币安人生USDT",
            "O:SPY251219C00650000".trim_start_matches("O:"),
            "BTC-27DEC24-100000-C",
            "EURUSD=X",
            "GC=F",
            "PETR4+",
            "$PEPE",
            "XBT/USD@kraken",
            "BRK'B",
            "Größe",
            "กำ",
            "🚀USDT",
            &"A".repeat(64),
            &"é".repeat(32),
        ] {
            assert_eq!(text.parse::<Symbol>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn refuses_characters_that_would_break_a_key_or_can_not_be_seen() {
        for text in [
            "",
            "A:B",
            "A B",
            " A",
            "{A}",
            "A}",
            "A\n",
            "A\0",
            "A\x7f",
            "A\u{85}",
            "A\u{a0}B",
            "A\u{3000}",
            "A\u{200b}B",
            "A\u{202e}B",
            "\u{feff}A",
            "A\u{e000}",
            &"A".repeat(65),
            &"é".repeat(33),
        ] {
            assert_eq!(text.parse::<Symbol>(), Err(InvalidSymbol), "{text:?}");
        }
    }

    #[test]
    fn a_word_of_a_shell_command_is_quoted_where_it_has_to_be() {
        for (text, word) in [
            ("BRK.B", "BRK.B"),
            ("币安人生USDT", "币安人生USDT"),
            ("M&M.NS", "'M&M.NS'"),
            ("$(reboot)", "'$(reboot)'"),
            ("^GSPC", "'^GSPC'"),
            ("O'NEIL", r"'O'\''NEIL'"),
        ] {
            assert_eq!(text.parse::<Symbol>().unwrap().shell_word(), word);
        }
    }
}
