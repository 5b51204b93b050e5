//! Measurements of hot-writer: from ticks in Redis to the hot view.

mod client;
mod drain;
mod freshness;
mod idle;
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

const FRESHNESS: &str = "Freshness of the hot view";
const DRAINING: &str = "Draining a backlog";
const COST: &str = "Memory and cost";

/// Measurements, in the order in which they run.
pub(crate) const MEASUREMENTS: &[Measurement] = &[
    Measurement {
        name: "hot-age-python",
        section: FRESHNESS,
        run: |bench| Box::pin(freshness::python(bench)),
    },
    Measurement {
        name: "hot-age-busy",
        section: FRESHNESS,
        run: |bench| Box::pin(freshness::busy(bench)),
    },
    Measurement {
        name: "hot-age-scale",
        section: FRESHNESS,
        run: |bench| Box::pin(freshness::scale(bench)),
    },
    Measurement {
        name: "hot-age-turn",
        section: FRESHNESS,
        run: |bench| Box::pin(freshness::turn(bench)),
    },
    Measurement {
        name: "hot-takeover",
        section: FRESHNESS,
        run: |bench| Box::pin(takeover::takeover(bench)),
    },
    Measurement {
        name: "hot-drain",
        section: DRAINING,
        run: |bench| Box::pin(throughput::drain(bench)),
    },
    Measurement {
        name: "hot-symbols",
        section: DRAINING,
        run: |bench| Box::pin(throughput::symbols(bench)),
    },
    Measurement {
        name: "hot-python",
        section: DRAINING,
        run: |bench| Box::pin(python::python(bench)),
    },
    Measurement {
        name: "hot-timeseries",
        section: DRAINING,
        run: |bench| Box::pin(timeseries::timeseries(bench)),
    },
    Measurement {
        name: "hot-idle",
        section: COST,
        run: |bench| Box::pin(idle::idle(bench)),
    },
    Measurement {
        name: "hot-memory",
        section: COST,
        run: |bench| Box::pin(memory::memory(bench)),
    },
    Measurement {
        name: "linear",
        section: COST,
        run: |bench| Box::pin(linear::linear(bench)),
    },
];
