//! Measurements of hot-writer: from ticks in Redis to the hot view.

mod client;
mod drain;
mod freshness;
mod linear;
mod live;
mod load;
mod memory;
mod observed;
mod plot;
mod python;
mod relay;
mod takeover;
mod throughput;
mod timeseries;
mod usage;

use crate::bench::Measurement;

/// Measurements, in the order in which they run.
pub(crate) const MEASUREMENTS: &[Measurement] = &[
    Measurement {
        name: "hot-age-python",
        run: |bench| Box::pin(freshness::python(bench)),
    },
    Measurement {
        name: "hot-age-busy",
        run: |bench| Box::pin(freshness::busy(bench)),
    },
    Measurement {
        name: "hot-age-scale",
        run: |bench| Box::pin(freshness::scale(bench)),
    },
    Measurement {
        name: "hot-age-turn",
        run: |bench| Box::pin(freshness::turn(bench)),
    },
    Measurement {
        name: "hot-takeover",
        run: |bench| Box::pin(takeover::takeover(bench)),
    },
    Measurement {
        name: "hot-drain",
        run: |bench| Box::pin(throughput::drain(bench)),
    },
    Measurement {
        name: "hot-symbols",
        run: |bench| Box::pin(throughput::symbols(bench)),
    },
    Measurement {
        name: "hot-python",
        run: |bench| Box::pin(python::python(bench)),
    },
    Measurement {
        name: "hot-timeseries",
        run: |bench| Box::pin(timeseries::timeseries(bench)),
    },
    Measurement {
        name: "hot-memory",
        run: |bench| Box::pin(memory::memory(bench)),
    },
    Measurement {
        name: "linear",
        run: |bench| Box::pin(linear::linear(bench)),
    },
];
