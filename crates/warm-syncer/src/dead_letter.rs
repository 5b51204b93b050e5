//! Dead letters: what becomes of an entry that can't be used.
//!
//! Of ticks and signals hot-writer comes to the same verdict and writes the dead letter; here they are left out. Candles nobody
//! else reads, and what only the database refuses nobody else sees. A dead letter that can't be kept ends in the log.

use storage_core::domain::entry::Entry;
use storage_core::domain::rejection::Rejection;
use storage_core::redis::codec::dead::{self, DeadLetter};
use storage_core::redis::stream::{Fields, Stream};
use tracing::{error, warn};

use crate::collect::Rejected;
use crate::metrics;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Skipped,
    DeadLetter,
    Lost,
}

fn fate(stream: Stream, reason: &Rejection) -> Fate {
    match (stream, reason) {
        (Stream::Dead, _) => Fate::Lost,
        (Stream::Candles(_), _) | (_, Rejection::Refused(_)) => Fate::DeadLetter,
        _ => Fate::Skipped,
    }
}

/// Counts the rejected entries of a batch, and returns the entries of `stream:dead` that some of them become.
pub(crate) fn letters(stream: Stream, kind: &str, entries: &[Entry], rejected: &[Rejected]) -> Vec<Fields> {
    let mut letters = Vec::new();
    for Rejected { entry, reason } in rejected {
        let Some(entry) = entries.get(*entry) else { continue };
        match fate(stream, reason) {
            Fate::Skipped => metrics::SKIPPED.increment(kind, reason.label(), 1),
            Fate::DeadLetter => {
                metrics::DEAD_LETTERS.increment(kind, reason.label(), 1);
                letters.push(dead::entry_fields(&DeadLetter::new(stream, entry, reason)));
            }
            Fate::Lost => {
                metrics::DEAD_LETTERS_LOST.increment(1);
                error!(id = %entry.id, "a dead letter can't be kept: {reason}");
            }
        }
    }
    if let (Some(first), false) = (rejected.first(), letters.is_empty()) {
        warn!(%stream, letters = letters.len(), "entries became dead letters; one of them: {}", first.reason);
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hot_writer_also_refuses_is_left_to_it() {
        let judged = Rejection::MissingField("price");
        let refused = Rejection::Refused("numeric field overflow".to_owned());
        assert_eq!(fate(Stream::Ticks(0), &judged), Fate::Skipped);
        assert_eq!(fate(Stream::Signals, &judged), Fate::Skipped);
        assert_eq!(fate(Stream::Ticks(0), &refused), Fate::DeadLetter);
        assert_eq!(fate(Stream::Candles(0), &judged), Fate::DeadLetter);
    }

    #[test]
    fn a_dead_letter_never_makes_another() {
        assert_eq!(fate(Stream::Dead, &Rejection::Refused(String::new())), Fate::Lost);
    }
}
