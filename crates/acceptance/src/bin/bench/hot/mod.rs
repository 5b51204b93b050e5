//! Measurements of hot-writer: from ticks in Redis to the hot view.

mod client;
mod drain;
mod latency;
mod linear;
mod load;
mod memory;
mod plot;
mod python;
mod throughput;
mod timeseries;

use crate::bench::Measurement;

/// Measurements, in the order in which they run.
pub(crate) const MEASUREMENTS: &[Measurement] = &[
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
        name: "hot-latency",
        run: |bench| Box::pin(latency::latency(bench)),
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
