//! [`Rejection`]: the reason for which an entry is a dead letter.

/// Reason for rejecting an entry. The dead letter contains its text, metrics its [`label`](Self::label).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A required field is missing.
    #[error("field `{0}` is missing")]
    MissingField(&'static str),
    /// The value of a field is invalid.
    #[error("field `{field}` {problem}")]
    InvalidField {
        /// Name of the field.
        field: &'static str,
        /// Problem of the value, as the predicate of a sentence.
        problem: String,
    },
    /// The price is not positive, and the symbol allows positive prices only.
    #[error(
        "field `price` must be positive; if other prices are right, run `{command}`, then requeue this dead letter"
    )]
    NotPositive {
        /// Command that allows other prices.
        command: String,
    },
    /// The event time is more than `max_future` after the time at which Redis accepted the entry.
    #[error(
        "ts_us is {ahead_us} µs ahead of the time at which Redis accepted the entry; a tick from the future would \
         close candles"
    )]
    Future {
        /// Difference of both times in µs.
        ahead_us: i64,
    },
    /// The quantity is too fine for the symbol's lots.
    #[error("qty {qty} is too fine for lots of 10^-{decimals}; {remedy}")]
    TooFine {
        /// Quantity in units.
        qty: String,
        /// Volume decimals of the symbol.
        decimals: u8,
        /// Remedy.
        remedy: String,
    },
    /// The quantity, or its minute's volume, is too large for the symbol's lots.
    #[error("with qty {qty} the minute's volume exceeds a bigint in lots of 10^-{decimals}; {remedy}")]
    TooLarge {
        /// Quantity in units.
        qty: String,
        /// Volume decimals of the symbol.
        decimals: u8,
        /// Remedy.
        remedy: String,
    },
    /// The entry's ID can't be a revision.
    #[error(
        "the entry's ID can't be a revision; let Redis generate the IDs (`XADD … *`), and if it continues from an ID \
         beyond the year 2039, run `aggregator-admin groups reset-ids`"
    )]
    UnusableId,
    /// The entry is in the stream of a partition that its symbol does not belong to.
    #[error(
        "symbol belongs to partition {expected}, not to {found}; the producer must use CRC16(symbol) modulo the \
         partitions in `stream:partitions`"
    )]
    WrongPartition {
        /// Partition of the symbol.
        expected: u16,
        /// Partition of the stream.
        found: u16,
    },
    /// The entry has the identity of an earlier trade and another price or quantity.
    #[error("conflicts with {kept}; send it as `kind correction` or `kind bust` if it replaces the trade")]
    Conflict {
        /// Values that are kept.
        kept: String,
    },
    /// An amendment names a trade that the history does not hold.
    #[error(
        "the history has no trade `{trade_id}` at {time}; `trade_id` and `ts_us` must be those of an \
         earlier trade, which the {kind} changes"
    )]
    UnknownTrade {
        /// Trade ID.
        trade_id: String,
        /// Event time.
        time: String,
        /// Kind of the entry.
        kind: &'static str,
    },
    /// The database refuses the row permanently.
    #[error("the database refuses the row: {0}")]
    Refused(String),
}

impl Rejection {
    /// All labels, with which metrics are registered at start.
    pub const LABELS: [&'static str; 10] = [
        "missing_field",
        "invalid_field",
        "future",
        "too_fine",
        "too_large",
        "unusable_id",
        "wrong_partition",
        "conflict",
        "unknown_trade",
        "refused",
    ];

    /// Returns the label of this kind of rejection.
    pub fn label(&self) -> &'static str {
        match self {
            Self::MissingField(_) => "missing_field",
            Self::InvalidField { .. } | Self::NotPositive { .. } => "invalid_field",
            Self::Future { .. } => "future",
            Self::TooFine { .. } => "too_fine",
            Self::TooLarge { .. } => "too_large",
            Self::UnusableId => "unusable_id",
            Self::WrongPartition { .. } => "wrong_partition",
            Self::Conflict { .. } => "conflict",
            Self::UnknownTrade { .. } => "unknown_trade",
            Self::Refused(_) => "refused",
        }
    }
}
