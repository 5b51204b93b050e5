//! [`Rejection`]: why an entry is a dead letter.

/// Why an entry can't be used. Its text goes into the dead letter, its [`label`](Self::label) into metrics.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// A field that must be there is not.
    #[error("field `{0}` is missing")]
    MissingField(&'static str),
    /// A field holds what it can't.
    #[error("field `{field}` {problem}")]
    InvalidField {
        /// The field's name.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The event time is further ahead of the entry's acceptance than `max_future`.
    #[error(
        "ts_us is {ahead_us} µs ahead of the time at which Redis accepted the entry; a tick from the future would close candles"
    )]
    Future {
        /// How far ahead, in µs.
        ahead_us: i64,
    },
    /// The quantity is too fine for the symbol's lots.
    #[error("qty {qty} is too fine for lots of 10^-{decimals}; {remedy}")]
    TooFine {
        /// The quantity, in units.
        qty: String,
        /// The symbol's volume decimals.
        decimals: u8,
        /// What to do.
        remedy: String,
    },
    /// The quantity, or its minute's volume, is too large for the symbol's lots.
    #[error("with qty {qty} the minute's volume leaves bigint in lots of 10^-{decimals}; {remedy}")]
    TooLarge {
        /// The quantity, in units.
        qty: String,
        /// The symbol's volume decimals.
        decimals: u8,
        /// What to do.
        remedy: String,
    },
    /// The entry's ID can't be a revision.
    #[error("the entry's ID can't be used as a revision; let Redis give the IDs (`XADD … *`)")]
    UnusableId,
    /// The entry is in a stream that its symbol does not belong to.
    #[error(
        "symbol belongs to partition {expected}, not to {found}; the producer must use CRC16(symbol) modulo the partitions in `stream:partitions`"
    )]
    WrongPartition {
        /// The partition that the symbol belongs to.
        expected: u16,
        /// The partition whose stream held the entry.
        found: u16,
    },
    /// The database refuses the row and always will.
    #[error("the database refuses the row: {0}")]
    Refused(String),
}

impl Rejection {
    /// Every label, for metrics that show a zero from the start.
    pub const LABELS: [&'static str; 8] = [
        "missing_field",
        "invalid_field",
        "future",
        "too_fine",
        "too_large",
        "unusable_id",
        "wrong_partition",
        "refused",
    ];

    /// The kind of rejection as a bounded metric label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::MissingField(_) => "missing_field",
            Self::InvalidField { .. } => "invalid_field",
            Self::Future { .. } => "future",
            Self::TooFine { .. } => "too_fine",
            Self::TooLarge { .. } => "too_large",
            Self::UnusableId => "unusable_id",
            Self::WrongPartition { .. } => "wrong_partition",
            Self::Refused(_) => "refused",
        }
    }
}
