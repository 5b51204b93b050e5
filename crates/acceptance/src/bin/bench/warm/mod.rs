//! Measurements of the history: warm-syncer, rollups, queries and compression.

use crate::bench::Measurement;

mod compression;
mod drain;
mod limit;
mod load;
mod python;
mod rollups;
mod stores;
mod syncer;

/// Measurements, in the order in which they run.
pub(crate) const MEASUREMENTS: &[Measurement] = &[
    Measurement {
        name: "warm-candles",
        run: |bench| Box::pin(syncer::candles(bench)),
    },
    Measurement {
        name: "warm-ticks",
        run: |bench| Box::pin(syncer::ticks(bench)),
    },
    Measurement {
        name: "rollups",
        run: |bench| Box::pin(rollups::apache(bench)),
    },
    Measurement {
        name: "rollups-community",
        run: |bench| Box::pin(rollups::community(bench)),
    },
    Measurement {
        name: "year",
        run: |bench| Box::pin(rollups::year(bench)),
    },
    Measurement {
        name: "compression",
        run: |bench| Box::pin(compression::bytes(bench)),
    },
];
