//! Rows of a batch, and the outcome of writing them.

use storage_core::domain::rejection::Rejection;
use storage_core::domain::time::TimeRange;
use storage_core::redis::codec::repairs::Repair;

/// A row, and the index in its batch of the entry that it was decoded from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item<T> {
    pub(crate) entry: usize,
    pub(crate) row: T,
}

/// The index in its batch of an entry that can't be written, and the reason.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rejected {
    pub(crate) entry: usize,
    pub(crate) reason: Rejection,
}

/// Outcome of writing rows.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Number of rows that were new or replaced an older revision.
    pub(crate) rows: usize,
    /// Number of rows that the table held already.
    pub(crate) unchanged: usize,
    pub(crate) rejected: Vec<Rejected>,
    /// Minutes to compute again from `ticks`.
    pub(crate) repairs: Vec<Repair>,
    /// Time ranges of candles that are too old for the refresh policies of the rollups.
    pub(crate) rollups: Vec<TimeRange>,
}

impl Written {
    /// Adds the outcome of another transaction.
    pub(crate) fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.unchanged += other.unchanged;
        self.rejected.extend(other.rejected);
        self.repairs.extend(other.repairs);
        self.rollups.extend(other.rollups);
    }
}
