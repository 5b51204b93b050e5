//! hot-writer: ticks in Redis to the hot view.

mod client;
mod drain;
mod load;
mod throughput;

use crate::bench::Measurement;

/// In the order in which they run.
pub(crate) const MEASUREMENTS: &[Measurement] = &[
    Measurement {
        name: "hot-drain",
        run: |bench| Box::pin(throughput::drain(bench)),
    },
    Measurement {
        name: "hot-symbols",
        run: |bench| Box::pin(throughput::symbols(bench)),
    },
];
