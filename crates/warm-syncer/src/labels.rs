//! Kinds of streams: values of the metric label `kind`.

use storage_core::redis::stream::Stream;

pub(crate) const CANDLES: &str = "candles";
pub(crate) const TICKS: &str = "ticks";
pub(crate) const SIGNALS: &str = "signals";
pub(crate) const FEEDS: &str = "feeds";
pub(crate) const DEAD_LETTERS: &str = "dead";

pub(crate) const ALL: &[&str] = &[CANDLES, TICKS, SIGNALS, FEEDS, DEAD_LETTERS];

/// Returns the kind of a stream that this worker reads.
pub(crate) fn of(stream: Stream) -> Option<&'static str> {
    match stream {
        Stream::Candles(_) => Some(CANDLES),
        Stream::Ticks(_) => Some(TICKS),
        Stream::Signals => Some(SIGNALS),
        Stream::Feeds => Some(FEEDS),
        Stream::Dead => Some(DEAD_LETTERS),
        Stream::Repairs | Stream::Rollups | Stream::Backups => None,
    }
}
