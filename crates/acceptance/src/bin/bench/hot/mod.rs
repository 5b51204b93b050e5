//! hot-writer: ticks in Redis to the hot view.

use crate::bench::Measurement;

/// In the order in which they run.
pub(crate) const MEASUREMENTS: &[Measurement] = &[];
