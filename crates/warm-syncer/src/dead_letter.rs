//! Decides what happens to a rejected entry.
//!
//! hot-writer rejects the same ticks and signals and writes their dead letters, so they are skipped here. Candles,
//! heartbeats, ticks that only the history can judge, and rows that the database refuses become dead letters here. A
//! dead letter that the database refuses is only logged.

use storage_core::domain::entry::Entry;
use storage_core::domain::entry::Fields;
use storage_core::domain::rejection::Rejection;
use storage_core::redis::codec::dead::{self, DeadLetter};
use storage_core::redis::stream::Stream;
use tracing::{error, warn};

use crate::metrics;
use crate::outcome::Rejected;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Disposition {
    Skip,
    DeadLetter,
    Log,
}

fn disposition(stream: Stream, reason: &Rejection) -> Disposition {
    match (stream, reason) {
        (Stream::Dead, _) => Disposition::Log,
        (Stream::Candles(_) | Stream::Feeds, _)
        | (_, Rejection::Refused(_) | Rejection::Conflict { .. } | Rejection::UnknownTrade { .. }) => {
            Disposition::DeadLetter
        }
        _ => Disposition::Skip,
    }
}

/// Counts the rejected entries of a batch, and returns the entries to add to `stream:dead`.
pub(crate) fn letters(stream: Stream, kind: &str, entries: &[Entry], rejected: &[Rejected]) -> Vec<Fields> {
    let mut letters = Vec::new();
    for Rejected { entry, reason } in rejected {
        let Some(entry) = entries.get(*entry) else { continue };
        match disposition(stream, reason) {
            Disposition::Skip => metrics::SKIPPED.increment(kind, reason.label(), 1),
            Disposition::DeadLetter => {
                metrics::DEAD_LETTERS.increment(kind, reason.label(), 1);
                letters.push(dead::entry_fields(&DeadLetter::new(stream, entry, reason)));
            }
            Disposition::Log => {
                metrics::DEAD_LETTERS_LOST.increment(1);
                error!(id = %entry.id, "the database refused a dead letter: {reason}");
            }
        }
    }
    if let (Some(first), false) = (rejected.first(), letters.is_empty()) {
        warn!(%stream, letters = letters.len(), "wrote dead letters; the first reason: {}", first.reason);
    }
    letters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_hot_writer_rejects_are_skipped() {
        let rejected = Rejection::MissingField("price");
        let refused = Rejection::Refused("numeric field overflow".to_owned());
        assert_eq!(disposition(Stream::Ticks(0), &rejected), Disposition::Skip);
        assert_eq!(disposition(Stream::Signals, &rejected), Disposition::Skip);
        assert_eq!(disposition(Stream::Ticks(0), &refused), Disposition::DeadLetter);
        let kept = "price 1".to_owned();
        let conflict = Rejection::Conflict { kept };
        assert_eq!(disposition(Stream::Ticks(0), &conflict), Disposition::DeadLetter);
        assert_eq!(disposition(Stream::Candles(0), &rejected), Disposition::DeadLetter);
        assert_eq!(disposition(Stream::Feeds, &rejected), Disposition::DeadLetter);
    }

    #[test]
    fn a_refused_dead_letter_is_only_logged() {
        assert_eq!(
            disposition(Stream::Dead, &Rejection::Refused(String::new())),
            Disposition::Log
        );
    }
}
