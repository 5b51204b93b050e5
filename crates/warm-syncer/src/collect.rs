//! Collects the rows of a batch, and isolates those that the database refuses.

use std::ops::Range;

use storage_core::domain::entry::Entry;

use crate::kinds::Kind;
use crate::outcome::{Item, Rejected};

/// Decodes the entries of a batch into rows and rejected entries.
pub(crate) fn collect<K: Kind>(kind: &K, entries: &[Entry]) -> (Vec<Item<K::Row>>, Vec<Rejected>) {
    let mut rows = Vec::with_capacity(entries.len());
    let mut rejected = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        match kind.decode(entry) {
            Ok(row) => rows.push(Item { entry: at, row }),
            Err(reason) => rejected.push(Rejected { entry: at, reason }),
        }
    }
    (rows, rejected)
}

/// Splits a batch until every row that the database refuses is alone: each half of a refused part is tried again, in
/// the order of the batch.
#[derive(Debug)]
pub(crate) struct Bisection {
    pending: Vec<Range<usize>>,
}

impl Bisection {
    /// Starts with the whole batch.
    pub(crate) fn new(len: usize) -> Self {
        Self {
            pending: Vec::from_iter((len > 0).then_some(0..len)),
        }
    }

    /// Returns the next part to try.
    pub(crate) fn next(&mut self) -> Option<Range<usize>> {
        self.pending.pop()
    }

    /// Splits a refused part, or returns its row if there is only one.
    pub(crate) fn split(&mut self, part: Range<usize>) -> Option<usize> {
        if part.len() == 1 {
            return Some(part.start);
        }
        let middle = part.start + part.len() / 2;
        self.pending.push(middle..part.end);
        self.pending.push(part.start..middle);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Simulates a database that refuses every part which contains one of `bad`.
    fn write(len: usize, bad: &[usize]) -> (Vec<usize>, Vec<usize>, usize) {
        let (mut written, mut alone, mut attempts) = (Vec::new(), Vec::new(), 0);
        let mut parts = Bisection::new(len);
        while let Some(part) = parts.next() {
            attempts += 1;
            if bad.iter().any(|at| part.contains(at)) {
                alone.extend(parts.split(part));
            } else {
                written.extend(part);
            }
        }
        (written, alone, attempts)
    }

    #[test]
    fn a_batch_without_bad_rows_is_written_in_one_attempt() {
        assert_eq!(write(1_000, &[]), ((0..1_000).collect(), vec![], 1));
        assert_eq!(write(0, &[]), (vec![], vec![], 0));
    }

    #[test]
    fn one_bad_row_among_a_thousand_is_found_in_twenty_attempts() {
        let (written, alone, attempts) = write(1_000, &[617]);
        assert_eq!((written.len(), alone), (999, vec![617]));
        assert!(attempts <= 21, "{attempts}");
    }

    proptest! {
        #[test]
        fn bad_rows_are_isolated_and_the_others_are_written_in_order(
            len in 0_usize..200,
            bad in proptest::collection::btree_set(0_usize..200, 0..20),
        ) {
            let bad: Vec<usize> = bad.into_iter().filter(|at| *at < len).collect();
            let (written, alone, _) = write(len, &bad);
            prop_assert_eq!(&alone, &bad);
            prop_assert_eq!(written, (0..len).filter(|at| !bad.contains(at)).collect::<Vec<_>>());
        }
    }
}
