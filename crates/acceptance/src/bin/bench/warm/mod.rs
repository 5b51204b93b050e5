//! The database side: warm-syncer, the rollups, and what history costs to read and to keep.

use crate::bench::Measurement;
use crate::figure::{Figure, Reach, Samples};

mod compression;
mod drain;
mod limit;
mod load;
mod python;
mod rollups;
mod stores;
mod syncer;

/// In the order in which they run.
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

/// A figure without samples yet.
fn figure(
    name: &'static str,
    explained: &'static str,
    unit: &'static str,
    against: &'static str,
    reach: Reach,
) -> Figure {
    Figure {
        name,
        explained,
        unit,
        ours: Samples::default(),
        against,
        limit: Samples::default(),
        ratio: Samples::default(),
        reach,
        note: None,
    }
}

impl Figure {
    /// Adds a round, whose ratio is ours by the limit.
    fn push(&mut self, ours: f64, limit: f64) {
        self.add(ours, limit, ours / limit);
    }

    /// Adds a round, whose ratio is the limit by ours: how many times faster or smaller we are.
    fn push_inverse(&mut self, ours: f64, limit: f64) {
        self.add(ours, limit, limit / ours);
    }

    fn add(&mut self, ours: f64, limit: f64, ratio: f64) {
        self.ours.0.push(ours);
        self.limit.0.push(limit);
        self.ratio.0.push(ratio);
    }
}
