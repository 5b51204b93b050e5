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

const SYNCER: &str = "warm-syncer";
const HISTORY: &str = "History";

/// Measurements, in the order in which they run.
pub(crate) const MEASUREMENTS: &[Measurement] = &[
    Measurement {
        name: "warm-candles",
        section: SYNCER,
        run: |bench| Box::pin(syncer::candles(bench)),
    },
    Measurement {
        name: "warm-ticks",
        section: SYNCER,
        run: |bench| Box::pin(syncer::ticks(bench)),
    },
    Measurement {
        name: "rollups",
        section: HISTORY,
        run: |bench| Box::pin(rollups::apache(bench)),
    },
    Measurement {
        name: "rollups-community",
        section: HISTORY,
        run: |bench| Box::pin(rollups::community(bench)),
    },
    Measurement {
        name: "year",
        section: HISTORY,
        run: |bench| Box::pin(rollups::year(bench)),
    },
    Measurement {
        name: "compression",
        section: HISTORY,
        run: |bench| Box::pin(compression::bytes(bench)),
    },
];
