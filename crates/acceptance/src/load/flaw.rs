//! Flaws of the bad entries of a load.

use crate::oracle::micros;
use crate::producer::Fields;

/// Flaw of a bad entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It has no price.
    NoPrice,
    /// Its price is not a number.
    NaNPrice,
    /// Its price is negative.
    NegativePrice,
    /// Its quantity is zero.
    NoQuantity,
    /// Its quantity is finer than any lots.
    TooFine,
    /// Its quantity is beyond what any lots can hold.
    TooLarge,
    /// Its event time is in milliseconds.
    Unit,
    /// Its event time is not a number.
    Time,
    /// Its event time is in the future.
    Future,
    /// Its trade ID begins with `@`, which is reserved.
    TradeId,
    /// Its symbol contains an invalid character.
    Symbol,
    /// It is in another symbol's stream.
    Partition,
    /// Its quantity is several kilobytes of invalid text.
    InvalidText,
    /// It is an earlier trade with another quantity.
    Conflict,
}

impl Flaw {
    /// Every flaw of a trade of its own.
    pub const ALL: [Self; 13] = [
        Self::NoPrice,
        Self::NaNPrice,
        Self::NegativePrice,
        Self::NoQuantity,
        Self::TooFine,
        Self::TooLarge,
        Self::Unit,
        Self::Time,
        Self::Future,
        Self::TradeId,
        Self::Symbol,
        Self::Partition,
        Self::InvalidText,
    ];

    /// Returns a part of the dead letter's reason.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NoPrice => "field `price` is missing",
            Self::NaNPrice => "field `price` is not a decimal number",
            Self::NegativePrice => "field `price` must be positive",
            Self::NoQuantity => "field `qty` must be positive",
            Self::TooFine => "is too fine for lots",
            Self::TooLarge => "exceeds a bigint",
            Self::Unit => "looks like milliseconds",
            Self::Time => "field `ts_us`",
            Self::Future => "ahead of the time at which Redis accepted",
            Self::TradeId => "must not begin with @",
            Self::Symbol => "field `symbol` must be 1 to 64",
            Self::Partition => "symbol belongs to partition",
            Self::InvalidText => "field `qty`",
            Self::Conflict => "conflicts with",
        }
    }

    /// Changes the fields of a valid trade.
    pub(super) fn apply(self, fields: &mut Fields) {
        let (field, value) = match self {
            Self::NoPrice => ("price", None),
            Self::NaNPrice => ("price", Some("NaN".to_owned())),
            Self::NegativePrice => ("price", Some("-1".to_owned())),
            Self::NoQuantity => ("qty", Some("0".to_owned())),
            Self::TooFine => ("qty", Some("1e-19".to_owned())),
            Self::TooLarge => ("qty", Some("1e19".to_owned())),
            Self::Unit => ("ts_us", Some("1700000000123".to_owned())),
            Self::Time => ("ts_us", Some("soon".to_owned())),
            Self::Future => ("ts_us", Some(micros("2200-01-01T00:00:00Z").to_string())),
            Self::TradeId => ("trade_id", Some("@1-1".to_owned())),
            Self::Symbol => ("symbol", Some("NO:SYMBOL".to_owned())),
            Self::Partition | Self::Conflict => return,
            Self::InvalidText => ("qty", Some("\u{1}rubbish".repeat(1_000))),
        };
        fields.retain(|(name, _)| name != field);
        fields.extend(value.map(|value| (field.to_owned(), value)));
    }
}
