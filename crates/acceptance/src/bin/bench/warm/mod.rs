//! warm-syncer and the history: candles and ticks from Redis to PostgreSQL, refreshes, queries, sizes.

use crate::bench::Measurement;

/// In the order in which they run.
pub(crate) const MEASUREMENTS: &[Measurement] = &[];
