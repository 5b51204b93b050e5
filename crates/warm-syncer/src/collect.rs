//! Collect: judges a batch's entries, and finds the ones that the database refuses.

use std::ops::Range;

use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;

use crate::kinds::Kind;

/// A row, and the place in its batch of the entry that it came from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item<T> {
    pub(crate) entry: usize,
    pub(crate) row: T,
}

/// An entry that can't be used, by its place in the batch, and why.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rejected {
    pub(crate) entry: usize,
    pub(crate) reason: Rejection,
}

/// Sorts a batch into rows and rejected entries.
pub(crate) fn collect<K: Kind>(kind: &K, entries: &[Entry]) -> (Vec<Item<K::Row>>, Vec<Rejected>) {
    let mut rows = Vec::with_capacity(entries.len());
    let mut rejected = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        match kind.judge(entry) {
            Ok(row) => rows.push(Item { entry: at, row }),
            Err(reason) => rejected.push(Rejected { entry: at, reason }),
        }
    }
    (rows, rejected)
}

/// Which parts of a batch to try, so that a row which the database refuses ends up alone: a refused part is tried again in
/// halves, in the batch's order.
#[derive(Debug)]
pub(crate) struct Bisection {
    open: Vec<Range<usize>>,
}

impl Bisection {
    /// Begins with the whole batch.
    pub(crate) fn of(len: usize) -> Self {
        Self {
            open: Vec::from_iter((len > 0).then_some(0..len)),
        }
    }

    /// The next part to try.
    pub(crate) fn next(&mut self) -> Option<Range<usize>> {
        self.open.pop()
    }

    /// Notes that `part` was refused. Returns the one that it consists of, or splits it.
    pub(crate) fn refused(&mut self, part: Range<usize>) -> Option<usize> {
        if part.len() == 1 {
            return Some(part.start);
        }
        let middle = part.start + part.len() / 2;
        self.open.push(middle..part.end);
        self.open.push(part.start..middle);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Writes what a database would that refuses every part with one of `bad` in it.
    fn write(len: usize, bad: &[usize]) -> (Vec<usize>, Vec<usize>, usize) {
        let (mut written, mut alone, mut attempts) = (Vec::new(), Vec::new(), 0);
        let mut parts = Bisection::of(len);
        while let Some(part) = parts.next() {
            attempts += 1;
            if bad.iter().any(|at| part.contains(at)) {
                alone.extend(parts.refused(part));
            } else {
                written.extend(part);
            }
        }
        (written, alone, attempts)
    }

    #[test]
    fn a_good_batch_is_written_in_one_go() {
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
        fn the_bad_rows_stand_alone_and_the_others_are_written_in_order(
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
